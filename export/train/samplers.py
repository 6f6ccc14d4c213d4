"""The input of one training step: windows of histories, and queries with or without a history."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swiftrec.export.arrays import Histories
from swiftrec.export.data.queries import ATTRIBUTE, CONDITIONS, NEGATION, SIMILAR, WORDS, Phrase
from swiftrec.export.data.relevance import Relevance
from swiftrec.export.data.text_variants import TextRows, TextVariant
from swiftrec.server.arrays import Positions

QUERY_HISTORY = 16  # events before a query, at most
QueryKind = TextVariant | str  # a variant of an item's text, or a kind of phrase
# Shares of the kinds of queries behind a history and without one, chosen on validation: more titles lower the quality
# on attributes and on histories by more than they raise that on titles.
BEHIND: Mapping[QueryKind, float] = MappingProxyType(
    {
        TextVariant.TITLE_WORDS: 0.2,
        TextVariant.DROPPED: 0.05,
        ATTRIBUTE: 0.15,
        CONDITIONS: 0.45,
        NEGATION: 0.05,
        WORDS: 0.05,
        SIMILAR: 0.05,
    }
)
ALONE: Mapping[QueryKind, float] = MappingProxyType(
    {
        TextVariant.TITLE: 0.08,
        TextVariant.TITLE_WORDS: 0.06,
        TextVariant.DROPPED: 0.06,
        ATTRIBUTE: 0.15,
        CONDITIONS: 0.5,
        NEGATION: 0.1,
        WORDS: 0.05,
    }
)


@dataclass(frozen=True, slots=True)
class Windows:
    """Inputs and next items, int64 [batch, time]; `mask` is 1 for events and 0 for padding, whose targets are -100.

    `relevance`, float32 of the same shape, is that of each target: 1 if the data set has no ratings.
    """

    items: Tensor
    targets: Tensor
    mask: Tensor
    relevance: Tensor


@dataclass(frozen=True, slots=True)
class Queries:
    """History items [batch, time] before a query, its text [batch], the target and its relevance [batch].

    `lengths` [batch] is the number of history items; `text` is a row of `Texts.all`.
    """

    items: Tensor
    lengths: Tensor
    text: Tensor
    target: Tensor
    relevance: Tensor


@dataclass(frozen=True, slots=True)
class LoneQueries:
    """Queries without a history, and for each of them one item that it matches, int64 [batch], with its relevance.

    `text` is a row of `Texts.all`.
    """

    text: Tensor
    item: Tensor
    relevance: Tensor


def windows(
    histories: Histories,
    length: int,
    size: int,
    rng: np.random.Generator,
    relevance: Relevance | None = None,
) -> Iterator[Windows]:
    """One epoch: every step of every history once as a target, cut at random positions into at most `length` steps.

    `relevance` is that of each event of `histories`; None or empty: 1 for all.
    """
    cuts: list[tuple[int, slice]] = []
    for user, history in enumerate(histories):
        end = len(history)
        if end > length + 1:
            cuts.append((user, slice(end - length - 1, end)))
            end -= int(rng.integers(1, length + 1))
        while end > 1:
            cuts.append((user, slice(max(0, end - length - 1), end)))
            end -= length
    order = rng.permutation(len(cuts))
    for start in range(0, len(order), size):
        batch = [cuts[n] for n in order[start : start + size]]
        rows = [histories[user][part] for user, part in batch]
        yield _stack(rows, [relevance[user][part] for user, part in batch] if relevance else [])


def steps_per_epoch(histories: Histories, length: int, size: int) -> int:
    """An upper bound of the number of batches that `windows` yields."""
    cuts = sum(1 + (len(h) > length + 1) + len(h) // length for h in histories)
    return -(-cuts // size)


def _stack(cuts: list[Positions], relevance: Relevance) -> Windows:
    time = max(map(len, cuts)) - 1
    items, relevances = torch.zeros(len(cuts), time, dtype=torch.int64), torch.ones(len(cuts), time)
    targets, mask = torch.full_like(items, -100), torch.zeros_like(items)
    for n, cut in enumerate(cuts):
        items[n, : len(cut) - 1] = torch.as_tensor(cut[:-1])
        targets[n, : len(cut) - 1] = torch.as_tensor(cut[1:])
        mask[n, : len(cut) - 1] = 1
    for n, row in enumerate(relevance):
        relevances[n, : len(row) - 1] = torch.as_tensor(row[1:])
    return Windows(items, targets, mask, relevances)


class _KindSampler:
    """Draws kinds of queries by their shares; kinds of phrases that the data set does not have are left out."""

    def __init__(self, shares: Mapping[QueryKind, float], phrases: Collection[str]) -> None:
        self.kinds = [kind for kind in shares if isinstance(kind, TextVariant) or kind in phrases]
        self._ends = np.cumsum([shares[kind] for kind in self.kinds])

    def draw(self, rng: np.random.Generator) -> QueryKind:
        """One of the kinds."""
        return self.kinds[int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))]


class _PhrasesByItem:
    """The phrases of one kind that each item matches."""

    def __init__(self, phrases: Sequence[Phrase], kind: str, items: int) -> None:
        numbers = [n for n, phrase in enumerate(phrases) if phrase.kind == kind]
        matches = np.concatenate([np.empty(0, np.int32), *(np.asarray(phrases[n].items, np.int32) for n in numbers)])
        number = np.repeat(np.array(numbers, dtype=np.int32), [len(phrases[n].items) for n in numbers])
        self._numbers = number[np.argsort(matches, kind="stable")]
        self._ends = np.cumsum(np.bincount(matches, minlength=items))

    def find(self, item: int) -> NDArray[np.int32]:
        """Positions of the item's phrases among all phrases."""
        return self._numbers[self._ends[item - 1] if item else 0 : self._ends[item]]


class QuerySampler:
    """Draws queries that match the user's next item, behind up to `QUERY_HISTORY` events.

    A `SIMILAR` query names the item before it, and has no history. If no phrase of a kind matches, the query is one
    attribute value, or else words of the title. `rows` are those of the texts.
    """

    def __init__(
        self,
        histories: Histories,
        phrases: list[Phrase],
        rows: TextRows,
        relevance: Relevance | None = None,
    ) -> None:
        self._histories, self._relevance, self._rows = histories, relevance, rows
        self._kinds = _KindSampler(BEHIND, {phrase.kind for phrase in phrases})
        self._phrases = {
            kind: _PhrasesByItem(phrases, kind, rows.items) for kind in self._kinds.kinds if isinstance(kind, str)
        }

    def behind(self, histories: Histories, relevance: Relevance) -> QuerySampler:
        """A sampler of the same phrases behind other histories, such as the same ones in another order."""
        other = copy.copy(self)
        other._histories, other._relevance = histories, relevance
        return other

    def draw(self, size: int, rng: np.random.Generator) -> Queries:
        """Draw `size` queries."""
        items = torch.zeros(size, QUERY_HISTORY, dtype=torch.int64)
        lengths, text, target = (torch.zeros(size, dtype=torch.int64) for _ in range(3))
        relevance = torch.ones(size)
        for n in range(size):
            user = int(rng.integers(len(self._histories)))
            history = self._histories[user]
            end = int(rng.integers(1, len(history)))
            before = history[max(0, end - int(rng.integers(0, QUERY_HISTORY + 1))) : end]
            kind = self._kinds.draw(rng)
            if kind == SIMILAR:
                before = before[:0]
            items[n, : len(before)] = torch.as_tensor(before)
            lengths[n], target[n] = len(before), int(history[end])
            relevance[n] = float(self._relevance[user][end]) if self._relevance else 1.0
            text[n] = self._text(kind, int(history[end]), int(history[end - 1]), rng)
        return Queries(items, lengths, text, target, relevance)

    def _text(self, kind: QueryKind, item: int, previous: int, rng: np.random.Generator) -> int:
        """The row of a query text whose target is `item`."""
        if isinstance(kind, TextVariant):
            return text_row(kind, item, self._rows, rng)
        phrases = self._phrases[kind].find(previous if kind == SIMILAR else item)
        if not len(phrases) and ATTRIBUTE in self._phrases:
            phrases = self._phrases[ATTRIBUTE].find(item)
        if not len(phrases):
            return self._rows.row(TextVariant.TITLE_WORDS, item)
        return self._rows.first_phrase + int(rng.choice(phrases))


def text_row(variant: TextVariant, item: int, rows: TextRows, rng: np.random.Generator) -> int:
    """The row of an item's text in a variant; `DROPPED` stands for itself and for each of the corrupted copies."""
    drawn = int(rng.integers(variant, rows.variants)) if variant is TextVariant.DROPPED else variant
    return rows.row(drawn, item)


class LoneQuerySampler:
    """Draws queries without a history, and items that they match.

    Items of phrases are drawn by popularity, and phrases that match only items without interactions are left out; item
    texts are drawn by the square root of the item's popularity. `relevance` is float32 [items]; `rows` are those of the
    texts.
    """

    def __init__(
        self, phrases: list[Phrase], popularity: NDArray[np.float64], relevance: NDArray[np.float32], rows: TextRows
    ) -> None:
        self._relevance, self._rows = relevance, rows
        self._items = [np.asarray(phrase.items) for phrase in phrases]
        self._sums = [np.cumsum(popularity[items]) for items in self._items]
        self._by_item = np.cumsum(np.sqrt(popularity))
        self._usable: dict[str, list[int]] = {}
        for n, (phrase, sums) in enumerate(zip(phrases, self._sums, strict=True)):
            if len(sums) and sums[-1] > 0:
                self._usable.setdefault(phrase.kind, []).append(n)
        self._kinds = _KindSampler(ALONE, self._usable)

    def draw(self, size: int, rng: np.random.Generator) -> LoneQueries:
        """Draw `size` queries."""
        drawn = [self._draw_one(rng) for _ in range(size)]
        text, items = np.array(drawn, dtype=np.int64).reshape(size, 2).T
        return LoneQueries(torch.tensor(text), torch.tensor(items), torch.as_tensor(self._relevance[items]))

    def _draw_one(self, rng: np.random.Generator) -> tuple[int, int]:
        """The row of a text and an item that it matches."""
        kind = self._kinds.draw(rng)
        if isinstance(kind, TextVariant):
            item = _pick(self._by_item, rng)
            return text_row(kind, item, self._rows, rng), item
        number = int(rng.choice(self._usable[kind]))
        return self._rows.first_phrase + number, int(self._items[number][_pick(self._sums[number], rng)])


def _pick(sums: NDArray[np.float64], rng: np.random.Generator) -> int:
    """A position by its weight; `sums` are cumulated weights."""
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
