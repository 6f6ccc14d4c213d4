"""The signals of requests, from which weights are fitted: every part of a score, unweighted, for every item.

A tenth of the items count as new for each request: without interactions, with vectors that are made from their texts
(`export.train.newcomers`), and with a memory that they inherit (`export.blend.inherit`). So the fit knows what a signal
is worth for items that nobody took yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.fit import Choices
from swiftrec.export.blend.inherit import Heirs, with_itself
from swiftrec.export.blend.requests import Asked
from swiftrec.server.catalogue.blend import SIGNALS, Known, Scoring, Weights
from swiftrec.server.catalogue.sparse import FLOOR, Boosts, Entries

Vectors = NDArray[np.float32]

_SAMPLED = 2_000  # items that are drawn beside those that memory or words name
_NAMED = 2_000  # items that these name: those that they add most to
_EVERY = Weights(**dict.fromkeys(SIGNALS, 1.0))


@dataclass(frozen=True, slots=True)
class Items:
    """What is known of the items.

    Args:
        vectors: the ranker's, float32 [items, d].
        as_new: the same where an item counts as new.
        folds: int64 [items], which requests an item is new for; -1 where it is always new.
        sentences: of their texts, float32 [items, s].
        popularity: how often each was taken.
    """

    vectors: Vectors
    as_new: Vectors
    folds: NDArray[np.int64]
    sentences: Vectors
    popularity: NDArray[np.float64]


class Signals:
    """Makes the choices of requests.

    Args:
        items: what is known of them.
        scoring: memory and words.
        folds: in how many parts items take turns at being new.
        seed: of the draws.
    """

    def __init__(self, items: Items, scoring: Scoring, folds: int, seed: int) -> None:
        self._items, self._scoring, self._folds = items, scoring, folds
        self._rng = np.random.default_rng(seed)
        self._can_be_wanted = items.folds >= 0
        taken = np.where(self._can_be_wanted, items.popularity, 0)
        self._heirs = [Heirs.of(items.sentences, taken, items.folds == fold) for fold in range(folds)]
        self._memory = with_itself(scoring.memory)

    def choices(self, asked: Sequence[Asked], users: Vectors, known: Callable[[Asked], Known]) -> list[Choices]:
        """One for each request whose wanted item may be recommended; `users` are the ranker's vectors [requests, d]."""
        return [
            self._of(one, known(one), user, number % self._folds)
            for number, (one, user) in enumerate(zip(asked, users, strict=True))
            if self._items.folds[one.wanted] >= 0 and one.wanted not in one.masked
        ]

    def _of(self, asked: Asked, known: Known, user: NDArray[np.float32], fold: int) -> Choices:
        added = self._added(known, fold)
        chosen, offsets = self._chosen(asked, [*added.values()])
        items, is_new = self._items, self._items.folds[chosen] == fold
        vectors = np.where(is_new[:, None], items.as_new[chosen], items.vectors[chosen])
        found = {name: part.at(np.sort(chosen))[_places(chosen)] for name, part in added.items()}
        found["ranker"] = vectors @ user
        sentences = items.sentences[chosen]
        if known.query_sentence is not None:
            found["query"] = sentences @ known.query_sentence
        if len(known.sentences):
            found["events"] = sentences @ known.sentences.mean(0)
        found["popularity"] = np.where(is_new, 0, np.log1p(items.popularity[chosen]))
        found["newcomer"] = is_new.astype(np.float32)
        signals = np.zeros((len(chosen), len(SIGNALS)), np.float32)
        for name, values in found.items():
            signals[:, SIGNALS.index(name)] = values
        return Choices(signals, offsets)

    def _added(self, known: Known, fold: int) -> dict[str, Boosts]:
        """What memory and words add; the memory of items that count as new is what they inherit."""
        added = self._scoring.added(_EVERY, known)
        for name, values in self._inherited(known, self._heirs[fold]).items():
            old = added[name]
            is_kept = self._items.folds[old.positions] != fold
            positions = np.concatenate([old.positions[is_kept], self._heirs[fold].items])
            order = np.argsort(positions)
            added[name] = Boosts(positions[order], np.concatenate([old.values[is_kept], values])[order])
        return added

    def _inherited(self, known: Known, heirs: Heirs) -> dict[str, NDArray[np.float32]]:
        """By signal of the memory what heirs have of it, as `export.blend.inherit.with_heirs` writes it, [heirs]."""
        if not len(known.items):
            return {}
        chances = heirs.inherit(self._by_item(self._memory.next_chances([known.items])))
        near = heirs.inherit(self._by_item(self._memory.near_weights([known.items])))
        return {"transitions": np.log1p(chances / FLOOR).astype(np.float32), "neighbours": near.astype(np.float32)}

    def _by_item(self, entries: Entries) -> NDArray[np.float64]:
        """Sums of entries, [items]."""
        found: NDArray[np.float64] = np.bincount(entries.positions, entries.values, len(self._items.vectors)).astype(
            np.float64
        )
        return found

    def _chosen(self, asked: Asked, named: Sequence[Boosts]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items to choose from, the wanted one first, and the logarithm of how many each stands for."""
        is_open = self._can_be_wanted.copy()
        is_open[asked.masked] = False
        is_open[asked.wanted] = False
        kept = np.flatnonzero(is_open)
        if len(kept) <= 2 * _SAMPLED:
            return np.append(asked.wanted, kept), np.zeros(1 + len(kept), np.float32)
        strongest = [part.largest(_NAMED // len(named)) for part in named]
        sure = np.unique(np.concatenate([kept[:0], *strongest]))
        sure = sure[is_open[sure]]
        is_open[sure] = False
        others = np.flatnonzero(is_open)
        drawn = self._rng.choice(others, min(_SAMPLED, len(others)), replace=False)
        offsets = np.zeros(1 + len(sure) + len(drawn), np.float32)
        offsets[1 + len(sure) :] = np.log(max(1, len(others)) / max(1, len(drawn)))
        return np.concatenate([[asked.wanted], sure, drawn]), offsets


def _places(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of them stands among them sorted."""
    return np.argsort(np.argsort(values))
