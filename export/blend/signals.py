"""The signals of requests, on which weights are fitted: every part of a score, unweighted, for every item.

For each request a tenth of the items is treated as cold: without interactions, with vectors from their texts
(`export.train.cold_start`) and with the memory of cold items (`export.blend.cold_memory`). So the fit also holds for
items without interactions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.cold_memory import NearestWarmItems, with_self_weights
from swiftrec.export.blend.fit import Choices
from swiftrec.export.blend.requests import BlendRequest
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.blend import SIGNALS, Scoring, ScoringInput, Weights
from swiftrec.server.catalogue.memory import FLOOR
from swiftrec.server.catalogue.sparse import Boosts, Entries

_SAMPLED_ITEMS = 2_000  # besides those with the largest values of memory or words
_LARGEST_ITEMS = 2_000  # of memory and words together
_ALL_SIGNALS = Weights(**dict.fromkeys(SIGNALS, 1.0))


@dataclass(frozen=True, slots=True)
class BlendItems:
    """The items of the catalogue.

    Args:
        vectors: the ranker's, float32 [items, d].
        cold_vectors: the same, if an item is treated as cold.
        folds: int64 [items], the requests for which an item is treated as cold; -1: for all.
        sentences: of their texts, float32 [items, s].
        popularity: number of events of each.
    """

    vectors: Vectors
    cold_vectors: Vectors
    folds: NDArray[np.int64]
    sentences: Vectors
    popularity: NDArray[np.float64]


class SignalBuilder:
    """Computes the choices of requests.

    Args:
        items: of the catalogue.
        scoring: memory and words.
        folds: number of parts of the items; each is cold in turn.
        seed: of the draws.
    """

    def __init__(self, items: BlendItems, scoring: Scoring, folds: int, seed: int) -> None:
        self._items, self._scoring, self._folds = items, scoring, folds
        self._rng = np.random.default_rng(seed)
        self._is_target = items.folds >= 0  # an item that is always cold is no target
        counts = np.where(self._is_target, items.popularity, 0)
        self._cold = [NearestWarmItems.of(items.sentences, counts, items.folds == fold) for fold in range(folds)]
        self._memory = with_self_weights(scoring.memory)

    def choices(
        self, requests: Sequence[BlendRequest], users: Vectors, known: Callable[[BlendRequest], ScoringInput]
    ) -> list[Choices]:
        """One for each request whose target may be recommended; `users` are the ranker's vectors [requests, d]."""
        return [
            self._choices(request, known(request), user, number % self._folds)
            for number, (request, user) in enumerate(zip(requests, users, strict=True))
            if self._is_target[request.target] and request.target not in request.masked
        ]

    def _choices(self, request: BlendRequest, known: ScoringInput, user: NDArray[np.float32], fold: int) -> Choices:
        added = self._added(known, fold)
        chosen, offsets = self._sample(request, [*added.values()])
        items, is_cold = self._items, self._items.folds[chosen] == fold
        vectors = np.where(is_cold[:, None], items.cold_vectors[chosen], items.vectors[chosen])
        columns = {name: part.at(np.sort(chosen))[_ranks(chosen)] for name, part in added.items()}
        columns["ranker"] = vectors @ user
        sentences = items.sentences[chosen]
        if known.query_sentence is not None:
            columns["query"] = sentences @ known.query_sentence
        if len(known.sentences):
            columns["events"] = sentences @ known.sentences.mean(0)
        columns["popularity"] = np.where(is_cold, 0, np.log1p(items.popularity[chosen]))
        columns["newcomer"] = is_cold.astype(np.float32)
        signals = np.zeros((len(chosen), len(SIGNALS)), np.float32)
        for name, values in columns.items():
            signals[:, SIGNALS.index(name)] = values
        return Choices(signals, offsets)

    def _added(self, known: ScoringInput, fold: int) -> dict[str, Boosts]:
        """What memory and words add to scores, with the memory of cold items."""
        added = self._scoring.added(_ALL_SIGNALS, known)
        for name, values in self._cold_memory(known, self._cold[fold]).items():
            old = added[name]
            is_kept = self._items.folds[old.positions] != fold
            positions = np.concatenate([old.positions[is_kept], self._cold[fold].items])
            order = np.argsort(positions)
            added[name] = Boosts(positions[order], np.concatenate([old.values[is_kept], values])[order])
        return added

    def _cold_memory(self, known: ScoringInput, cold: NearestWarmItems) -> dict[str, NDArray[np.float32]]:
        """Signals of the memory for cold items, [cold], as `export.blend.cold_memory.with_cold_items` writes them."""
        if not len(known.items):
            return {}
        chances = cold.mean(self._by_item(self._memory.next_chances([known.items])))
        near = cold.mean(self._by_item(self._memory.near_weights([known.items])))
        return {"transitions": np.log1p(chances / FLOOR).astype(np.float32), "neighbours": near.astype(np.float32)}

    def _by_item(self, entries: Entries) -> NDArray[np.float64]:
        """Sums of entries, [items]."""
        size = len(self._items.vectors)
        sums: NDArray[np.float64] = np.bincount(entries.positions, entries.values, size).astype(np.float64)
        return sums

    def _sample(self, request: BlendRequest, parts: Sequence[Boosts]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items to choose from, the target first, and the logarithm of the number of items that each stands for."""
        is_open = self._is_target.copy()
        is_open[request.masked] = False
        is_open[request.target] = False
        kept = np.flatnonzero(is_open)
        if len(kept) <= 2 * _SAMPLED_ITEMS:
            return np.append(request.target, kept), np.zeros(1 + len(kept), np.float32)
        largest = np.unique(np.concatenate([kept[:0], *(part.largest(_LARGEST_ITEMS // len(parts)) for part in parts)]))
        largest = largest[is_open[largest]]
        is_open[largest] = False
        others = np.flatnonzero(is_open)
        drawn = self._rng.choice(others, min(_SAMPLED_ITEMS, len(others)), replace=False)
        offsets = np.zeros(1 + len(largest) + len(drawn), np.float32)
        offsets[1 + len(largest) :] = np.log(max(1, len(others)) / max(1, len(drawn)))
        return np.concatenate([[request.target], largest, drawn]), offsets


def _ranks(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position of each value among the sorted values."""
    return np.argsort(np.argsort(values))
