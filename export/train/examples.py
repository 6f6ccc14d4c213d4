"""What one training step of the teacher reads: windows of histories, and queries with or without a history."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.data.phrases import Phrase
from export.data.ratings import Worth

QUERY_HISTORY = 16  # events before a query, at most


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
    """History items [batch, time] before a query, its phrase [batch], the wanted item and its worth [batch].

    `lengths` [batch] is the number of history items; `phrase` -1 means that the title words of the wanted item ask.
    """

    items: Tensor
    lengths: Tensor
    phrase: Tensor
    wanted: Tensor
    worth: Tensor


@dataclass(frozen=True, slots=True)
class Asked:
    """Phrases, and for each one item that it fits, int64 [batch], with its worth."""

    phrase: Tensor
    item: Tensor
    worth: Tensor


def windows(
    histories: list[NDArray[np.int64]], length: int, size: int, rng: np.random.Generator, worth: Worth | None = None
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


def _stack(cuts: list[NDArray[np.int64]], worth: Worth) -> Windows:
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


class QuerySampler:
    """Draws queries that fit the item which the user took next."""

    def __init__(
        self, histories: list[NDArray[np.int64]], phrases: list[Phrase], items: int, worth: Worth | None = None
    ) -> None:
        self._histories, self._worth = histories, worth
        fits = np.concatenate([np.empty(0, np.int32), *(np.asarray(phrase.items, np.int32) for phrase in phrases)])
        number = np.repeat(np.arange(len(phrases), dtype=np.int32), [len(phrase.items) for phrase in phrases])
        self._fitting = number[np.argsort(fits, kind="stable")]
        self._ends = np.cumsum(np.bincount(fits, minlength=items))

    def draw(self, size: int, rng: np.random.Generator) -> Queries:
        """Draw `size` queries; a quarter asks with words of the title."""
        items = torch.zeros(size, QUERY_HISTORY, dtype=torch.int64)
        lengths, phrase, wanted = (torch.zeros(size, dtype=torch.int64) for _ in range(3))
        worth = torch.ones(size)
        for n in range(size):
            user = int(rng.integers(len(self._histories)))
            history = self._histories[user]
            end = int(rng.integers(1, len(history)))
            before = history[max(0, end - int(rng.integers(0, QUERY_HISTORY + 1))) : end]
            items[n, : len(before)] = torch.as_tensor(before)
            lengths[n], wanted[n] = len(before), int(history[end])
            worth[n] = float(self._worth[user][end]) if self._worth else 1.0
            fitting = self._phrases_of(int(history[end]))
            by_title = not len(fitting) or rng.random() < 0.25
            phrase[n] = -1 if by_title else int(rng.choice(fitting))
        return Queries(items, lengths, phrase, wanted, worth)

    def _phrases_of(self, item: int) -> NDArray[np.int32]:
        return self._fitting[self._ends[item - 1] if item else 0 : self._ends[item]]


class PhraseSampler:
    """Draws phrases, and items that they fit by popularity; phrases that fit nothing that was taken are left out.

    `worth` [items] is how much each item is wanted.
    """

    def __init__(self, phrases: list[Phrase], popularity: NDArray[np.float64], worth: NDArray[np.float32]) -> None:
        self._worth = worth
        self._items = [np.asarray(phrase.items) for phrase in phrases]
        self._sums = [np.cumsum(popularity[items]) for items in self._items]
        self._usable = np.array([n for n, sums in enumerate(self._sums) if len(sums) and sums[-1] > 0], dtype=np.int64)

    def draw(self, size: int, rng: np.random.Generator) -> Asked:
        """Draw `size` phrases; none if there are none."""
        chosen = rng.choice(self._usable, size) if len(self._usable) else np.empty(0, np.int64)
        picks = [np.searchsorted(self._sums[n], rng.random() * self._sums[n][-1], side="right") for n in chosen]
        items = np.array([self._items[n][pick] for n, pick in zip(chosen, picks, strict=True)], dtype=np.int64)
        return Asked(torch.as_tensor(chosen), torch.as_tensor(items), torch.as_tensor(self._worth[items]))
