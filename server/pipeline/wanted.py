"""The second batcher's model: users are ranked together, and searched for together where that is faster.

A search for one of thirty users at once costs a third of a search alone (benchmarks/LOG.md). Where a search is alone
anyway (large catalogues, filters, few users) it is left to the thread that finishes the call: it holds nobody up there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from server.catalogue.blend import Aim
from server.catalogue.catalogue import Catalogue, Ranked
from server.catalogue.filters import Allowed
from server.models.ranker import RankerModel, UserSequence

Vector = NDArray[np.float32]


class Wanted(NamedTuple):
    """A user, and what is wanted for them: the best `top_k` of the `allowed` items; 0: the user's vector alone.

    `aim` is what the other parts add to the ranker's score.
    """

    user: UserSequence
    aim: Aim
    allowed: Allowed
    top_k: int


class Found(NamedTuple):
    """What items are compared with [width]; `items` if they were searched for, in `search_s` seconds, else None."""

    user: Vector
    items: Ranked | None = None
    search_s: float = 0.0


class Finder:
    """Ranks, and searches for those that are better searched for together.

    Args:
        ranker: makes user vectors.
        catalogue: is searched.
        clock: seconds, monotonic.
    """

    def __init__(self, ranker: RankerModel, catalogue: Catalogue, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranker, self._catalogue, self._clock = ranker, catalogue, clock

    def run(self, jobs: Sequence[Wanted]) -> list[Found]:
        """One answer for each job."""
        ranked = self._ranker.run([job.user for job in jobs])
        started = self._clock()
        users = [job.aim.at(user) for job, user in zip(jobs, ranked, strict=True)]
        allowed, top_k, boosts = zip(*((job.allowed, job.top_k, job.aim.boosts) for job in jobs), strict=True)
        found = self._catalogue.search_together(users, allowed, top_k, boosts)
        took_s = self._clock() - started
        return [
            Found(user, items, took_s if items is not None else 0.0) for user, items in zip(users, found, strict=True)
        ]
