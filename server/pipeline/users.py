"""A sample of users, made up from the catalogue: what an approximate index is made for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from server.catalogue.catalogue import Catalogue
from server.models.ranker import Kind, RankerModel, UserSequence

_BATCHES, _USERS = 64, 32
_POOL, _NEAR = 1_024, 16  # items that a batch of users chooses from, and those of them that count as near one
_TASTES = 3  # at most, of one user
_LONGEST = 32  # events


def sample_users(ranker: RankerModel, catalogue: Catalogue, max_history: int) -> NDArray[np.float32]:
    """User vectors float32 [users, dimensions] of seeded histories.

    Every other history is of anything, the others are of a few tastes; half of each kind ends with a query.
    """
    random, longest = np.random.default_rng(0), min(_LONGEST, max_history)
    batches = [list(_users(catalogue.draw(_POOL, random), longest, random)) for _ in range(_BATCHES)]
    return np.array([vector for batch in batches for vector in ranker.run(batch)])


def _users(pool: NDArray[np.float32], longest: int, random: np.random.Generator) -> Iterator[UserSequence]:
    for number in range(_USERS):
        events = random.integers(len(pool), size=random.integers(1, longest + 1))
        if number % 4 < 2:
            likes = pool[events[:_TASTES]] @ pool.T
            near = np.argpartition(-likes, _NEAR, axis=1)[:, :_NEAR]
            events = near[random.integers(len(near), size=len(events)), random.integers(_NEAR, size=len(events))]
        vectors, kinds = list(pool[events]), [Kind.ITEM] * len(events)
        if number % 2:
            vectors[-1], kinds[-1] = vectors[-1] / max(1e-9, float(np.linalg.norm(vectors[-1]))), Kind.QUERY
        yield UserSequence(vectors, kinds)
