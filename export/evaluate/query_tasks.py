"""The tasks whose requests are a query alone: attributes, titles, tags, "like ...", conditions, negation.

Their wordings are `export.data.templates.EVALUATION`, which training never reads. If a data set cannot have a task, its
maker returns the reason in one sentence.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

import numpy as np

from swiftrec.export.arrays import Histories
from swiftrec.export.data.attributes import TAGS, ItemsByValue
from swiftrec.export.data.corruption import mistyped
from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.data.keywords import Keywords, words_of
from swiftrec.export.data.split import Cases
from swiftrec.export.data.templates import EVALUATION, spoken_title
from swiftrec.server.arrays import Positions

MAX_CASES = 500  # cases of each of these tasks
_MAX_READ = 10_000  # items that are searched for tags
_MAX_TAG_WORDS = 2
_RAREST_WORDS = 8  # of an item's text that a query may contain
_NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class QueryTask:
    """Requests with a query each, without a history.

    Args:
        texts: the query of each case.
        cases: the targets; their `histories` are not read, but not recommended either.
        violating: for each case the items that the request excludes; empty if no request excludes any.
    """

    texts: list[str]
    cases: Cases
    violating: Histories = field(default_factory=list)

    def take(self, rows: Sequence[int]) -> QueryTask:
        """The requests of the given rows."""
        excluded = [self.violating[n] for n in rows] if self.violating else []
        return QueryTask([self.texts[n] for n in rows], self.cases.take(np.array(rows, dtype=np.int64)), excluded)


@dataclass(frozen=True, slots=True)
class QuerySource:
    """What the tasks are made from.

    Args:
        items: the catalogue.
        titles: their titles.
        nouns: words for "item".
        carriers: attribute value -> the items that have it.
        warm: cases with a history, whose targets training saw.
        size: how many cases a task has at most.
        seed: beyond those of training.
    """

    items: Sequence[DatasetItem]
    titles: Sequence[str]
    nouns: Sequence[str]
    carriers: ItemsByValue
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
        """The attribute values of an item that a query can name."""
        named = (values for name, values in self.items[item].attributes.items() if name != TAGS)
        values = (value.lower() for own in named for value in own)
        return [value for value in dict.fromkeys(values) if value in self.carriers]


def query(source: QuerySource) -> QueryTask | str:
    """The attributes of the target, as typed by a user who does not know its name: "thriller crime 1990s film"."""
    rng, kept, texts = source.random(), [], []
    for n, target in enumerate(source.warm.targets.tolist()):
        if values := source.values_of(target):
            rng.shuffle(values)
            kept.append(n)
            texts.append(" ".join([*values, source.nouns[0]]))
    if not kept:
        return "no target has an attribute value that a query can name"
    return QueryTask(texts, source.warm.take(np.array(kept)).without_histories)


def title(source: QuerySource) -> QueryTask | str:
    """The exact title of an item; an item with the same title counts as the target, too."""
    rows = source.drawn(len(source.titles))
    same = _same(source.titles, rows, normalised)
    nothing: Histories = [np.empty(0, np.int64) for _ in rows]
    cases = Cases(np.arange(len(rows)), nothing, np.array(rows, dtype=np.int64), equivalents=same)
    return QueryTask([source.titles[n] for n in rows], cases)


def typos(source: QuerySource) -> QueryTask | str:
    """The same titles with one or two typing errors."""
    exact, rng = title(source), source.random()
    if isinstance(exact, str):
        return exact
    noisy = [mistyped(text, rng) for text in exact.texts]
    changed = [n for n, text in enumerate(noisy) if text != exact.texts[n]]
    if not changed:
        return "no title has a word of four letters to mistype"
    return QueryTask(noisy, exact.cases).take(changed)


def tags(source: QuerySource) -> QueryTask | str:
    """A tag or words of an item that are not in its title, its attributes or the queries that training reads.

    Every other item with the same tag, or with the same words in its text, counts as the target, too.
    """
    order = np.random.default_rng(source.seed).permutation(len(source.items))[:_MAX_READ].tolist()
    rng = source.random()
    pairs, described = list(islice(_tagged(source, order, rng), source.size)), _tags_of
    if not pairs:
        pairs, described = list(islice(_worded(source, order, rng), source.size)), _words_of
    if not pairs:
        return (
            f"the items have no column {TAGS}, and their texts no informative word that is neither in the title nor an "
            "attribute value"
        )
    nothing: Histories = [np.empty(0, np.int64) for _ in pairs]
    queries, targets = [words for words, _ in pairs], np.array([n for _, n in pairs])
    same = _equivalents(source.items, queries, targets.tolist(), described)
    cases = Cases(np.arange(len(pairs)), nothing, targets, equivalents=same)
    return QueryTask([" ".join(words) for words in queries], cases)


def _tags_of(item: DatasetItem) -> set[str]:
    return {tag.lower() for tag in item.attributes.get(TAGS, [])}


def _words_of(item: DatasetItem) -> set[str]:
    return words_of(item.text)


def _equivalents(
    items: Sequence[DatasetItem],
    queries: Sequence[Sequence[str]],
    targets: Sequence[int],
    described: Callable[[DatasetItem], set[str]],
) -> Histories:
    """For each query the items other than the target whose description has all of its words."""
    carriers: dict[str, list[int]] = {word: [] for words in queries for word in words}
    for n, item in enumerate(items):
        for word in described(item) & carriers.keys():
            carriers[word].append(n)
    fitting = (set(carriers[words[0]]).intersection(*(carriers[word] for word in words[1:])) for words in queries)
    return [np.array(sorted(same - {item}), dtype=np.int64) for same, item in zip(fitting, targets, strict=True)]


def _tagged(source: QuerySource, order: list[int], rng: random.Random) -> Iterator[tuple[list[str], int]]:
    """A tag of each item that has one which is not in its text."""
    for n in order:
        item = source.items[n]
        text = item.text.lower()
        own = [tag.lower() for tag in item.attributes.get(TAGS, []) if tag.lower() not in text]
        if own:
            yield [rng.choice(own)], n


def _worded(source: QuerySource, order: list[int], rng: random.Random) -> Iterator[tuple[list[str], int]]:
    """One or two informative words of each item's text."""
    keywords = Keywords.of(source.items)
    for n in order if keywords.counts else []:
        words = keywords.of_item(source.items[n], for_training=False)[:_RAREST_WORDS]
        if words:
            yield rng.sample(words, min(len(words), _MAX_TAG_WORDS)), n


def paraphrase(source: QuerySource) -> QueryTask | str:
    """A wording of "something like TITLE"; the target is what the user interacted with after that item."""
    rng, warm = source.random(), source.warm
    rows = [n for n in source.drawn(len(warm.targets)) if warm.histories[n][-1] != warm.targets[n]]
    if not rows:
        return "the last interaction of every user repeats the one before it"
    named = [int(warm.histories[n][-1]) for n in rows]
    texts = [
        rng.choice(EVALUATION.similar).format(title=spoken_title(source.titles[n]), noun=rng.choice(source.nouns))
        for n in named
    ]
    return QueryTask(texts, warm.take(np.array(rows)).without_histories)


def conditions(source: QuerySource) -> QueryTask | str:
    """Two or three attribute values of the target at once."""
    rng, kept, texts = source.random(), [], []
    for n in source.drawn(len(source.warm.targets)):
        values = source.values_of(int(source.warm.targets[n]))
        if len(values) >= 2:
            named = rng.sample(values, rng.randint(2, min(3, len(values))))
            kept.append(n)
            texts.append(_worded_values(source, EVALUATION.pair if len(named) == 2 else EVALUATION.triple, named, rng))
    if not kept:
        return "no target has two attribute values that a query can name"
    return QueryTask(texts, source.warm.take(np.array(kept)).without_histories)


def negation(source: QuerySource) -> QueryTask | str:
    """A value that the target has, and not another one that often occurs with it."""
    rng, kept, texts, excluded = source.random(), [], [], []
    carriers: dict[str, Positions] = {}  # shared by the cases that exclude the same value
    partners = _Partners(source.carriers, len(source.items))
    for n in source.drawn(len(source.warm.targets)):
        own = source.values_of(int(source.warm.targets[n]))
        rng.shuffle(own)
        pairs = ((a, {b: count for b, count in partners.of(a).items() if b not in own}) for a in own)
        value, others = next(((a, others) for a, others in pairs if others), ("", {}))
        if others:
            without = rng.choices([*others], [*others.values()])[0]
            kept.append(n)
            excluded.append(carriers.setdefault(without, source.carriers[without].astype(np.int64)))
            texts.append(_worded_values(source, EVALUATION.negation, [value, without], rng))
    if not kept:
        return "no attribute value of a target occurs together with one that the target does not have"
    return QueryTask(texts, source.warm.take(np.array(kept)).without_histories, excluded)


class _Partners:
    """Which values occur together with a value, and in how many items."""

    def __init__(self, carriers: ItemsByValue, items: int) -> None:
        self._carriers, self._items = carriers, items
        self._known: dict[str, dict[str, int]] = {}

    def of(self, value: str) -> dict[str, int]:
        """Other value -> number of items that have both, if there are any."""
        if value not in self._known:
            carries = np.zeros(self._items, dtype=bool)
            carries[self._carriers[value]] = True
            counts = {b: int(np.count_nonzero(carries[own])) for b, own in self._carriers.items() if b != value}
            self._known[value] = {b: count for b, count in counts.items() if count}
        return self._known[value]


def _worded_values(source: QuerySource, templates: Sequence[str], values: Sequence[str], rng: random.Random) -> str:
    named = dict(zip("abc", values, strict=False))
    return rng.choice(templates).format(**named, noun=rng.choice(source.nouns))


def normalised(text: str) -> str:
    """The words of a title in lower case: titles that differ in case, blanks or punctuation are the same."""
    return _NOT_A_WORD.sub(" ", text.casefold()).strip() or text


def _same(titles: Sequence[str], rows: Sequence[int], key: Callable[[str], str]) -> Histories:
    """For each of `rows` the other items whose title has the same key."""
    by_key: dict[str, list[int]] = {key(titles[n]): [] for n in rows}
    for n, text in enumerate(titles):
        if (other := key(text)) in by_key:
            by_key[other].append(n)
    return [np.array([m for m in by_key[key(titles[n])] if m != n], dtype=np.int64) for n in rows]


MAKERS: Mapping[str, Callable[[QuerySource], QueryTask | str]] = MappingProxyType(
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
"""Task -> makes it, or returns in words why the data set cannot have it."""
