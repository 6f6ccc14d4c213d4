"""The query phrases that training reads: attribute values, several conditions, negation, words, "films like ..."."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from swiftrec.export.data.carriers import Carriers, Positions, find_carriers, fulfilling
from swiftrec.export.data.dataset import Dataset, Item
from swiftrec.export.data.keywords import Keywords
from swiftrec.export.data.popularity import events_of
from swiftrec.export.data.split import always_trained
from swiftrec.export.data.templates import TRAINING, spoken_title

ATTRIBUTE, CONDITIONS, NEGATION, WORDS, SIMILAR = "attribute", "conditions", "negation", "words", "similar"
# How many phrases of each kind are read at most: each costs one text through BERT.
MAX_PHRASES = MappingProxyType({ATTRIBUTE: 400, CONDITIONS: 800, NEGATION: 200, WORDS: 150, SIMILAR: 150})
_MIN_FITTING = 3  # items that fulfil several conditions
_TRIES = 4  # draws for each phrase of three conditions


class Made(NamedTuple):
    """A phrase, its kind, and the items that it fits; for `SIMILAR` the item that it names."""

    text: str
    kind: str
    items: Positions


def training_queries(dataset: Dataset, rng: random.Random) -> list[Made]:
    """Phrases of every kind that the data set can have; those that ask for the same share their items."""
    made = [*_by_attributes(dataset, rng), *_by_words(dataset.items, rng), *_similar(dataset)]
    return list({phrase.text: phrase for phrase in made}.values())


def _by_attributes(dataset: Dataset, rng: random.Random) -> Iterator[Made]:
    carriers = find_carriers(dataset.items)
    noun = itertools.cycle(dataset.nouns)
    pairs = _pairs(carriers, len(dataset.items))
    both = [(a, b) for a, b, common in pairs if common >= _MIN_FITTING]
    apart = [(a, b) for a, b, common in pairs if common and len(carriers[a]) - common >= _MIN_FITTING]
    asked = [
        *_some(ATTRIBUTE, [(t, (value,), ()) for value in carriers for t in TRAINING.single], rng),
        *_some(
            CONDITIONS,
            [
                *((t, (a, b), ()) for a, b in both for t in TRAINING.pair),
                *((t, values, ()) for values in _triples(carriers, both, rng) for t in TRAINING.triple),
            ],
            rng,
        ),
        *_some(NEGATION, [(t, (a,), (b,)) for a, b in apart for t in TRAINING.negation], rng),
    ]
    shared: dict[tuple[frozenset[str], tuple[str, ...]], Positions] = {}
    for kind, (template, wanted, excluded) in asked:
        key = frozenset(wanted), excluded
        if key not in shared:
            shared[key] = fulfilling(carriers, wanted, excluded)
        yield Made(_fill(template, (*wanted, *excluded), next(noun)), kind, shared[key])


_Asked = tuple[str, tuple[str, ...], tuple[str, ...]]


def _some(kind: str, asked: list[_Asked], rng: random.Random) -> list[tuple[str, _Asked]]:
    """At most as many as the kind may have, drawn evenly."""
    most = MAX_PHRASES[kind]
    return [(kind, one) for one in (asked if len(asked) <= most else rng.sample(asked, most))]


def _fill(template: str, values: Sequence[str], noun: str) -> str:
    return template.format(**dict(zip("abc", values, strict=False)), noun=noun)


def _pairs(carriers: Carriers, items: int) -> list[tuple[str, str, int]]:
    """Every two different values in both orders, with the number of items that carry both."""
    pairs = []
    for first, found in carriers.items():
        carries = np.zeros(items, dtype=bool)
        carries[found] = True
        pairs += [(first, b, int(np.count_nonzero(carries[o]))) for b, o in carriers.items() if b != first]
    return pairs


def _triples(carriers: Carriers, both: list[tuple[str, str]], rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Three values that enough items carry at once, drawn from the pairs."""
    values, found = [*carriers], set[tuple[str, str, str]]()
    if not both:
        return
    for _ in range(_TRIES * MAX_PHRASES[CONDITIONS] // 3):
        (a, b), c = rng.choice(both), rng.choice(values)
        triple = (a, b, c)
        if len({*triple}) == len(triple) and triple not in found:
            found.add(triple)
            if len(fulfilling(carriers, triple)) >= _MIN_FITTING:
                yield triple


def _by_words(items: Sequence[Item], rng: random.Random) -> Iterator[Made]:
    """Two or three informative words of an item's text."""
    keywords = Keywords.of(items)
    if not keywords.counts:
        return
    for n in rng.sample(range(len(items)), min(MAX_PHRASES[WORDS], len(items))):
        words = keywords.of_item(items[n], for_training=True)
        if len(words) > 1:
            drawn = rng.sample(words, min(len(words), rng.randint(2, 3)))
            yield Made(" ".join(drawn), WORDS, np.array([n], np.int32))


def _similar(dataset: Dataset) -> Iterator[Made]:
    """What asks for more of the kind of an item, for the items with the most interactions in training."""
    if not dataset.histories:
        return
    counts = events_of(always_trained(dataset), len(dataset.items))
    often = np.argsort(-counts, kind="stable")[: MAX_PHRASES[SIMILAR]]
    worded = zip(itertools.cycle(TRAINING.similar), itertools.cycle(dataset.nouns), strict=False)
    for n, (template, noun) in zip(often[counts[often] > 0].tolist(), worded, strict=False):
        text = template.format(title=spoken_title(dataset.items[n].title), noun=noun)
        yield Made(text, SIMILAR, np.array([n], np.int32))
