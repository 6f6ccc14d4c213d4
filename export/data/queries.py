"""Query phrases for training: attribute values, several conditions, negation, keywords, "films like ..."."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from swiftrec.export.data.attributes import ItemsByValue, index_attributes, items_with
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.keywords import Keywords
from swiftrec.export.data.popularity import interaction_counts
from swiftrec.export.data.split import always_trained
from swiftrec.export.data.templates import TRAINING, spoken_title
from swiftrec.server.arrays import StoredPositions

ATTRIBUTE, CONDITIONS, NEGATION, WORDS, SIMILAR = "attribute", "conditions", "negation", "words", "similar"
# Phrases of each kind, at most: each is one more text for BERT.
MAX_PHRASES = MappingProxyType({ATTRIBUTE: 400, CONDITIONS: 800, NEGATION: 200, WORDS: 150, SIMILAR: 150})
_MIN_MATCHES = 3  # items that match several conditions
_TRIES = 4  # draws for each phrase of three conditions


@dataclass(frozen=True, slots=True)
class Phrase:
    """A query and the positions of the items that match it; phrases with the same conditions share the array.

    The item of a `SIMILAR` phrase is the one that the phrase names.
    """

    text: str
    items: Sequence[int] | StoredPositions
    kind: str = ATTRIBUTE


def training_queries(dataset: Dataset, rng: random.Random) -> list[Phrase]:
    """Phrases of every kind that the data set supports; those with the same conditions share the array of items."""
    phrases = [*_by_attributes(dataset, rng), *_by_words(dataset.items, rng), *_similar(dataset)]
    return list({phrase.text: phrase for phrase in phrases}.values())


def _by_attributes(dataset: Dataset, rng: random.Random) -> Iterator[Phrase]:
    index = index_attributes(dataset.items)
    noun = itertools.cycle(dataset.nouns)
    pairs = _pairs(index, len(dataset.items))
    both = [(a, b) for a, b, common in pairs if common >= _MIN_MATCHES]
    negated = [(a, b) for a, b, common in pairs if common and len(index[a]) - common >= _MIN_MATCHES]
    drawn = [
        *_sample(ATTRIBUTE, [(t, (value,), ()) for value in index for t in TRAINING.single], rng),
        *_sample(
            CONDITIONS,
            [
                *((t, (a, b), ()) for a, b in both for t in TRAINING.pair),
                *((t, values, ()) for values in _triples(index, both, rng) for t in TRAINING.triple),
            ],
            rng,
        ),
        *_sample(NEGATION, [(t, (a,), (b,)) for a, b in negated for t in TRAINING.negation], rng),
    ]
    shared: dict[tuple[frozenset[str], tuple[str, ...]], StoredPositions] = {}
    for kind, (template, required, excluded) in drawn:
        key = frozenset(required), excluded
        if key not in shared:
            shared[key] = items_with(index, required, excluded)
        yield Phrase(_fill(template, (*required, *excluded), next(noun)), shared[key], kind)


_Conditions = tuple[str, tuple[str, ...], tuple[str, ...]]  # template, required and excluded values


def _sample(kind: str, choices: list[_Conditions], rng: random.Random) -> list[tuple[str, _Conditions]]:
    """All choices, or a random sample of `MAX_PHRASES[kind]`."""
    limit = MAX_PHRASES[kind]
    return [(kind, choice) for choice in (choices if len(choices) <= limit else rng.sample(choices, limit))]


def _fill(template: str, values: Sequence[str], noun: str) -> str:
    return template.format(**dict(zip("abc", values, strict=False)), noun=noun)


def _pairs(index: ItemsByValue, items: int) -> list[tuple[str, str, int]]:
    """Every two different values in both orders, with the number of items that have both."""
    pairs = []
    for first, positions in index.items():
        has_first = np.zeros(items, dtype=bool)
        has_first[positions] = True
        pairs += [(first, b, int(np.count_nonzero(has_first[other]))) for b, other in index.items() if b != first]
    return pairs


def _triples(index: ItemsByValue, both: list[tuple[str, str]], rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Three values that enough items have at once, drawn from the pairs."""
    values, tried = [*index], set[tuple[str, str, str]]()
    if not both:
        return
    for _ in range(_TRIES * MAX_PHRASES[CONDITIONS] // 3):
        (a, b), c = rng.choice(both), rng.choice(values)
        triple = (a, b, c)
        if len({*triple}) == len(triple) and triple not in tried:
            tried.add(triple)
            if len(items_with(index, triple)) >= _MIN_MATCHES:
                yield triple


def _by_words(items: Sequence[DatasetItem], rng: random.Random) -> Iterator[Phrase]:
    """Two or three keywords of an item."""
    keywords = Keywords.of(items)
    if not keywords.counts:
        return
    for n in rng.sample(range(len(items)), min(MAX_PHRASES[WORDS], len(items))):
        words = keywords.of_item(items[n], for_training=True)
        if len(words) > 1:
            chosen = rng.sample(words, min(len(words), rng.randint(2, 3)))
            yield Phrase(" ".join(chosen), np.array([n], np.int32), WORDS)


def _similar(dataset: Dataset) -> Iterator[Phrase]:
    """Queries for items similar to one, for the items with the most interactions in training."""
    if not dataset.histories:
        return
    counts = interaction_counts(always_trained(dataset), len(dataset.items))
    popular = np.argsort(-counts, kind="stable")[: MAX_PHRASES[SIMILAR]]
    worded = zip(itertools.cycle(TRAINING.similar), itertools.cycle(dataset.nouns), strict=False)
    for n, (template, noun) in zip(popular[counts[popular] > 0].tolist(), worded, strict=False):
        text = template.format(title=spoken_title(dataset.items[n].title), noun=noun)
        yield Phrase(text, np.array([n], np.int32), SIMILAR)
