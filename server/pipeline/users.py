"""A sample of users, made up from the catalogue: what an approximate index is made for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.catalogue import Catalogue
from server.models.ranker import Kind, RankerModel, UserSequence

_USERS, _BATCH = 2_048, 32
_LONGEST = 32  # events


def sample_users(ranker: RankerModel, catalogue: Catalogue, max_history: int) -> NDArray[np.float32]:
    """User vectors float32 [users, dimensions] of seeded histories, of which every other one ends with a query."""
    random = np.random.default_rng(0)
    longest = min(_LONGEST, max_history)

    def user(number: int) -> UserSequence:
        vectors = list(catalogue.draw(int(random.integers(1, longest + 1)), random))
        kinds = [Kind.ITEM] * len(vectors)
        if number % 2:
            vectors[-1], kinds[-1] = vectors[-1] / max(1e-9, float(np.linalg.norm(vectors[-1]))), Kind.QUERY
        return UserSequence(vectors, kinds)

    batches = [[user(number) for number in range(_BATCH)] for _ in range(_USERS // _BATCH)]
    return np.array([vector for batch in batches for vector in ranker.run(batch)])
