"""What one training step of the teacher reads: windows of histories, and queries with or without a history."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swiftrec.export.data.queries import ATTRIBUTE, CONDITIONS, NEGATION, SIMILAR, WORDS, Phrase
from swiftrec.export.data.relevance import Relevance
from swiftrec.export.data.text_variants import TextRows, TextVariant

QUERY_HISTORY = 16  # events before a query, at most
QueryKind = TextVariant | str  # a variant of an item's text, or a kind of phrase
# How often each kind of query is drawn behind a history and without one, of those that the data set has; chosen on
# validation: more titles cost more of the answers to attributes and to histories than they give.
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
    """Inputs and next items, int64 [batch, time]; `mask` is 1 where there is an event; targets are -100 elsewhere.

    `worth`, float32 of the same shape, says how much each target is wanted: 1 where nothing is rated.
    """

    items: Tensor
    targets: Tensor
    mask: Tensor
    worth: Tensor


@dataclass(frozen=True, slots=True)
class Queries:
    """History items [batch, time] before a query, its text [batch], the wanted item and its worth [batch].

    `lengths` [batch] is the number of history items; `text` is a row of `Texts.all`.
    """

    items: Tensor
    lengths: Tensor
    text: Tensor
    wanted: Tensor
    worth: Tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """Queries without a history, and for each one item that it fits, int64 [batch], with its worth.

    `text` is a row of `Texts.all`.
    """

    text: Tensor
    item: Tensor
    worth: Tensor


def windows(
    histories: list[NDArray[np.int64]], length: int, size: int, rng: np.random.Generator, worth: Relevance | None = None
) -> Iterator[Windows]:
    """One epoch: every step of every history once as a target, cut at random places into at most `length` steps.

    `worth` is that of each event of `histories`; without it (or empty) all are worth 1.
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
        some = [cuts[n] for n in order[start : start + size]]
        yield _stack([histories[u][part] for u, part in some], [worth[u][part] for u, part in some] if worth else [])


def steps_per_epoch(histories: list[NDArray[np.int64]], length: int, size: int) -> int:
    """An upper bound of the number of batches that `windows` yields."""
    cuts = sum(1 + (len(h) > length + 1) + len(h) // length for h in histories)
    return -(-cuts // size)


def _stack(cuts: list[NDArray[np.int64]], worth: Relevance) -> Windows:
    time = max(map(len, cuts)) - 1
    items, wanted = torch.zeros(len(cuts), time, dtype=torch.int64), torch.ones(len(cuts), time)
    targets, mask = torch.full_like(items, -100), torch.zeros_like(items)
    for n, cut in enumerate(cuts):
        items[n, : len(cut) - 1] = torch.as_tensor(cut[:-1])
        targets[n, : len(cut) - 1] = torch.as_tensor(cut[1:])
        mask[n, : len(cut) - 1] = 1
    for n, row in enumerate(worth):
        wanted[n, : len(row) - 1] = torch.as_tensor(row[1:])
    return Windows(items, targets, mask, wanted)


class _Drawer:
    """Draws kinds of queries by their shares: those of phrases only if there are some of the kind."""

    def __init__(self, shares: Mapping[QueryKind, float], phrases: Collection[str]) -> None:
        self.kinds = [kind for kind in shares if isinstance(kind, TextVariant) or kind in phrases]
        self._ends = np.cumsum([shares[kind] for kind in self.kinds])

    def draw(self, rng: np.random.Generator) -> QueryKind:
        """One of the kinds."""
        return self.kinds[int(np.searchsorted(self._ends, rng.random() * self._ends[-1], side="right"))]


class _Fitting:
    """The phrases of one kind that fit each item."""

    def __init__(self, phrases: Sequence[Phrase], kind: str, items: int) -> None:
        numbers = [n for n, phrase in enumerate(phrases) if phrase.kind == kind]
        fits = np.concatenate([np.empty(0, np.int32), *(np.asarray(phrases[n].items, np.int32) for n in numbers)])
        number = np.repeat(np.array(numbers, dtype=np.int32), [len(phrases[n].items) for n in numbers])
        self._numbers = number[np.argsort(fits, kind="stable")]
        self._ends = np.cumsum(np.bincount(fits, minlength=items))

    def of(self, item: int) -> NDArray[np.int32]:
        """Positions of its phrases among all of them."""
        return self._numbers[self._ends[item - 1] if item else 0 : self._ends[item]]


class QuerySampler:
    """Draws queries that fit the item which the user took next, behind up to `QUERY_HISTORY` events.

    A `SIMILAR` query names the item that was taken before, and has no history. Where no phrase of a kind fits, one
    attribute value asks, or else words of the title. `rows` are those of the texts.
    """

    def __init__(
        self,
        histories: list[NDArray[np.int64]],
        phrases: list[Phrase],
        rows: TextRows,
        worth: Relevance | None = None,
    ) -> None:
        self._histories, self._worth, self._rows = histories, worth, rows
        self._drawer = _Drawer(BEHIND, {phrase.kind for phrase in phrases})
        self._fitting = {
            kind: _Fitting(phrases, kind, rows.items) for kind in self._drawer.kinds if isinstance(kind, str)
        }

    def behind(self, histories: list[NDArray[np.int64]], worth: Relevance) -> QuerySampler:
        """A sampler of the same phrases behind other histories, such as the same ones in another order."""
        other = copy.copy(self)
        other._histories, other._worth = histories, worth
        return other

    def draw(self, size: int, rng: np.random.Generator) -> Queries:
        """Draw `size` queries."""
        items = torch.zeros(size, QUERY_HISTORY, dtype=torch.int64)
        lengths, text, wanted = (torch.zeros(size, dtype=torch.int64) for _ in range(3))
        worth = torch.ones(size)
        for n in range(size):
            user = int(rng.integers(len(self._histories)))
            history = self._histories[user]
            end = int(rng.integers(1, len(history)))
            before = history[max(0, end - int(rng.integers(0, QUERY_HISTORY + 1))) : end]
            kind = self._drawer.draw(rng)
            if kind == SIMILAR:
                before = before[:0]
            items[n, : len(before)] = torch.as_tensor(before)
            lengths[n], wanted[n] = len(before), int(history[end])
            worth[n] = float(self._worth[user][end]) if self._worth else 1.0
            text[n] = self._text(kind, int(history[end]), int(history[end - 1]), rng)
        return Queries(items, lengths, text, wanted, worth)

    def _text(self, kind: QueryKind, item: int, previous: int, rng: np.random.Generator) -> int:
        """The row of a text that asks for `item`."""
        if isinstance(kind, TextVariant):
            return written(kind, self._rows, rng) + item
        fitting = self._fitting[kind].of(previous if kind == SIMILAR else item)
        if not len(fitting) and ATTRIBUTE in self._fitting:
            fitting = self._fitting[ATTRIBUTE].of(item)
        if not len(fitting):
            return self._rows.start(TextVariant.TITLE_WORDS) + item
        return self._rows.first_phrase + int(rng.choice(fitting))


def written(variant: TextVariant, rows: TextRows, rng: np.random.Generator) -> int:
    """The first row of a variant; for `DROPPED` that of any variant from it on, so also of the corrupted copies."""
    return rows.start(int(rng.integers(variant, rows.variants)) if variant is TextVariant.DROPPED else variant)


class LoneQuerySampler:
    """Draws queries without a history, and items that they fit.

    Items of phrases are drawn by popularity, and phrases that fit nothing that was taken are left out; titles and other
    ways to write an item are drawn by the square root of its popularity. `worth` [items] is how much each item is
    wanted; `rows` are those of the texts.
    """

    def __init__(
        self, phrases: list[Phrase], popularity: NDArray[np.float64], worth: NDArray[np.float32], rows: TextRows
    ) -> None:
        self._worth, self._rows = worth, rows
        self._items = [np.asarray(phrase.items) for phrase in phrases]
        self._sums = [np.cumsum(popularity[items]) for items in self._items]
        self._by_item = np.cumsum(np.sqrt(popularity))
        self._usable: dict[str, list[int]] = {}
        for n, (phrase, sums) in enumerate(zip(phrases, self._sums, strict=True)):
            if len(sums) and sums[-1] > 0:
                self._usable.setdefault(phrase.kind, []).append(n)
        self._drawer = _Drawer(ALONE, self._usable)

    def draw(self, size: int, rng: np.random.Generator) -> Asked:
        """Draw `size` queries."""
        drawn = [self._one(rng) for _ in range(size)]
        text, items = np.array(drawn, dtype=np.int64).reshape(size, 2).T
        return Asked(torch.tensor(text), torch.tensor(items), torch.as_tensor(self._worth[items]))

    def _one(self, rng: np.random.Generator) -> tuple[int, int]:
        """The row of a text and an item that it fits."""
        kind = self._drawer.draw(rng)
        if isinstance(kind, TextVariant):
            item = _pick(self._by_item, rng)
            return written(kind, self._rows, rng) + item, item
        number = int(rng.choice(self._usable[kind]))
        return self._rows.first_phrase + number, int(self._items[number][_pick(self._sums[number], rng)])


def _pick(sums: NDArray[np.float64], rng: np.random.Generator) -> int:
    """A position by its weight; `sums` are cumulated weights."""
    return int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
