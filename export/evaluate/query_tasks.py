"""The tasks that ask by a text alone, as people do: attributes, titles, tags, "like ...", conditions, negation.

Their wordings are `export.data.templates.EVALUATION`, which training never reads. A data set that cannot have a task
gets one sentence why.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.attributes import TAGS, AttributeIndex
from swiftrec.export.data.corruption import mistyped
from swiftrec.export.data.dataset import Item
from swiftrec.export.data.keywords import Keywords, words_of
from swiftrec.export.data.split import Cases, Histories
from swiftrec.export.data.templates import EVALUATION, spoken_title

MAX_ASKED = 500  # cases of each of these tasks
_MAX_READ = 10_000  # items that are looked at for tags
_MAX_TAG_WORDS = 2
_RAREST_WORDS = 8  # of an item's text that it may be asked for by
_NOT_A_WORD = re.compile(r"[\W_]+")

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class QueryTask:
    """Requests by a text each, without a history.

    Args:
        texts: one for each case.
        cases: the wanted items; their `histories` are not read, but left out of the recommendations.
        violating: for each case the items that the request excludes; empty where it excludes none.
    """

    texts: list[str]
    cases: Cases
    violating: Histories = field(default_factory=list)

    def take(self, rows: Sequence[int]) -> QueryTask:
        """Some of the requests."""
        excluded = [self.violating[n] for n in rows] if self.violating else []
        return QueryTask([self.texts[n] for n in rows], self.cases.take(np.array(rows, dtype=np.int64)), excluded)


@dataclass(frozen=True, slots=True)
class Source:
    """What the tasks are made from.

    Args:
        items: the catalogue.
        titles: their titles.
        nouns: words for "item".
        carriers: which items carry which attribute values.
        warm: cases with a history, whose wanted items training saw.
        size: how many cases a task has at most.
        seed: beyond those of training.
    """

    items: Sequence[Item]
    titles: Sequence[str]
    nouns: Sequence[str]
    carriers: AttributeIndex
    warm: Cases
    size: int
    seed: int

    def drawn(self, size: int) -> list[int]:
        """Positions from 0 to `size`: all, or as many as a task has, ascending."""
        order = np.random.default_rng(self.seed).permutation(size)
        return sorted(order[: self.size].tolist())

    def random(self) -> random.Random:
        """A generator; the same for the same seed."""
        return random.Random(self.seed)  # noqa: S311 (no secret)

    def values_of(self, item: int) -> list[str]:
        """The attribute values of an item that can be asked for."""
        values = (
            value.lower() for name, found in self.items[item].attributes.items() if name != TAGS for value in found
        )
        return [value for value in dict.fromkeys(values) if value in self.carriers]


def query(source: Source) -> QueryTask | str:
    """What somebody types who knows the kind but not the name: "thriller crime 1990s film"."""
    rng, kept, texts = source.random(), [], []
    for n, wanted in enumerate(source.warm.targets.tolist()):
        if values := source.values_of(wanted):
            rng.shuffle(values)
            kept.append(n)
            texts.append(" ".join([*values, source.nouns[0]]))
    if not kept:
        return "no wanted item has an attribute value that can be asked for"
    return QueryTask(texts, source.warm.take(np.array(kept)).without_histories)


def title(source: Source) -> QueryTask | str:
    """The exact title of an item; one with the same title counts as found, too."""
    rows = source.drawn(len(source.titles))
    same = _same(source.titles, rows, normalised)
    nothing: Histories = [np.empty(0, np.int64) for _ in rows]
    cases = Cases(np.arange(len(rows)), nothing, np.array(rows, dtype=np.int64), equivalents=same)
    return QueryTask([source.titles[n] for n in rows], cases)


def typos(source: Source) -> QueryTask | str:
    """The same titles with one or two typing errors."""
    exact, rng = title(source), source.random()
    if isinstance(exact, str):
        return exact
    noisy = [mistyped(text, rng) for text in exact.texts]
    changed = [n for n, text in enumerate(noisy) if text != exact.texts[n]]
    if not changed:
        return "no title has a word of four letters to mistype"
    return QueryTask(noisy, exact.cases).take(changed)


def tags(source: Source) -> QueryTask | str:
    """A word that an item is described by, but not in its title, its attributes or what training asks.

    Every other item with the same tag, or with the same words in its text, counts as found, too.
    """
    order = np.random.default_rng(source.seed).permutation(len(source.items))[:_MAX_READ].tolist()
    rng = source.random()
    found, described = list(islice(_tagged(source, order, rng), source.size)), _tags_of
    if not found:
        found, described = list(islice(_worded(source, order, rng), source.size)), _words_of
    if not found:
        return (
            f"the items have no column {TAGS}, and their texts no informative word that is neither in the title nor an "
            "attribute value"
        )
    nothing: Histories = [np.empty(0, np.int64) for _ in found]
    asked, wanted = [words for words, _ in found], np.array([n for _, n in found])
    same = _carrying(source.items, asked, wanted.tolist(), described)
    return QueryTask(
        [" ".join(words) for words in asked], Cases(np.arange(len(found)), nothing, wanted, equivalents=same)
    )


def _tags_of(item: Item) -> set[str]:
    return {tag.lower() for tag in item.attributes.get(TAGS, [])}


def _words_of(item: Item) -> set[str]:
    return words_of(item.text)


def _carrying(
    items: Sequence[Item], asked: Sequence[Sequence[str]], wanted: Sequence[int], described: Callable[[Item], set[str]]
) -> Histories:
    """For each request the items, but for the wanted one, whose description has all that is asked for."""
    carriers: dict[str, list[int]] = {word: [] for words in asked for word in words}
    for n, item in enumerate(items):
        for word in described(item) & carriers.keys():
            carriers[word].append(n)
    found = (set(carriers[words[0]]).intersection(*(carriers[word] for word in words[1:])) for words in asked)
    return [np.array(sorted(same - {item}), dtype=np.int64) for same, item in zip(found, wanted, strict=True)]


def _tagged(source: Source, order: list[int], rng: random.Random) -> Iterator[tuple[list[str], int]]:
    """A tag of each item that has one which is not in its text."""
    for n in order:
        item = source.items[n]
        text = item.text.lower()
        own = [tag.lower() for tag in item.attributes.get(TAGS, []) if tag.lower() not in text]
        if own:
            yield [rng.choice(own)], n


def _worded(source: Source, order: list[int], rng: random.Random) -> Iterator[tuple[list[str], int]]:
    """One or two informative words of each item's text."""
    keywords = Keywords.of(source.items)
    for n in order if keywords.counts else []:
        words = keywords.of_item(source.items[n], for_training=False)[:_RAREST_WORDS]
        if words:
            yield rng.sample(words, min(len(words), _MAX_TAG_WORDS)), n


def paraphrase(source: Source) -> QueryTask | str:
    """A wording of "something like TITLE": wanted is what the user took after that item."""
    rng, warm = source.random(), source.warm
    rows = [n for n in source.drawn(len(warm.targets)) if warm.histories[n][-1] != warm.targets[n]]
    if not rows:
        return "every user took the same item again"
    named = [int(warm.histories[n][-1]) for n in rows]
    texts = [
        rng.choice(EVALUATION.similar).format(title=spoken_title(source.titles[n]), noun=rng.choice(source.nouns))
        for n in named
    ]
    return QueryTask(texts, warm.take(np.array(rows)).without_histories)


def conditions(source: Source) -> QueryTask | str:
    """Two or three attribute values of the wanted item at once."""
    rng, kept, texts = source.random(), [], []
    for n in source.drawn(len(source.warm.targets)):
        values = source.values_of(int(source.warm.targets[n]))
        if len(values) >= 2:
            asked = rng.sample(values, rng.randint(2, min(3, len(values))))
            kept.append(n)
            texts.append(_worded_values(source, EVALUATION.pair if len(asked) == 2 else EVALUATION.triple, asked, rng))
    if not kept:
        return "no wanted item has two attribute values that can be asked for"
    return QueryTask(texts, source.warm.take(np.array(kept)).without_histories)


def negation(source: Source) -> QueryTask | str:
    """A value that the wanted item carries, and not another one that often goes with it."""
    rng, kept, texts, excluded = source.random(), [], [], []
    carriers: dict[str, Positions] = {}  # shared by the cases that exclude the same
    partners = _Partners(source.carriers, len(source.items))
    for n in source.drawn(len(source.warm.targets)):
        own = source.values_of(int(source.warm.targets[n]))
        rng.shuffle(own)
        pairs = ((a, {b: count for b, count in partners.of(a).items() if b not in own}) for a in own)
        wanted, others = next(((a, others) for a, others in pairs if others), ("", {}))
        if others:
            without = rng.choices([*others], [*others.values()])[0]
            kept.append(n)
            excluded.append(carriers.setdefault(without, source.carriers[without].astype(np.int64)))
            texts.append(_worded_values(source, EVALUATION.negation, [wanted, without], rng))
    if not kept:
        return "no attribute value of a wanted item goes with one that it does not carry"
    return QueryTask(texts, source.warm.take(np.array(kept)).without_histories, excluded)


class _Partners:
    """Which values are carried together with a value, and by how many items."""

    def __init__(self, carriers: AttributeIndex, items: int) -> None:
        self._carriers, self._items = carriers, items
        self._known: dict[str, dict[str, int]] = {}

    def of(self, value: str) -> dict[str, int]:
        """Other value -> items that carry both, if there are any."""
        if value not in self._known:
            carries = np.zeros(self._items, dtype=bool)
            carries[self._carriers[value]] = True
            counts = {b: int(np.count_nonzero(carries[found])) for b, found in self._carriers.items() if b != value}
            self._known[value] = {b: count for b, count in counts.items() if count}
        return self._known[value]


def _worded_values(source: Source, templates: Sequence[str], values: Sequence[str], rng: random.Random) -> str:
    named = dict(zip("abc", values, strict=False))
    return rng.choice(templates).format(**named, noun=rng.choice(source.nouns))


def normalised(text: str) -> str:
    """The words of a title in lower case: titles that differ in case, blanks or punctuation are the same."""
    return _NOT_A_WORD.sub(" ", text.casefold()).strip() or text


def _same(titles: Sequence[str], rows: Sequence[int], key: Callable[[str], str]) -> Histories:
    """For each of `rows` the other items whose title has the same key."""
    found: dict[str, list[int]] = {key(titles[n]): [] for n in rows}
    for n, text in enumerate(titles):
        if (other := key(text)) in found:
            found[other].append(n)
    return [np.array([m for m in found[key(titles[n])] if m != n], dtype=np.int64) for n in rows]


MAKERS: Mapping[str, Callable[[Source], QueryTask | str]] = MappingProxyType(
    {
        "query": query,
        "title": title,
        "typos": typos,
        "tags": tags,
        "paraphrase": paraphrase,
        "conditions": conditions,
        "negation": negation,
    }
)
"""Task -> what makes it, or says in words why the data set cannot have it."""
