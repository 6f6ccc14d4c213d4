"""Vectors of history and query to user vectors, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from server.models.session import Session

Vector = NDArray[np.float32]


class Kind(IntEnum):
    """What a vector in a sequence stands for; the numbers are the ranker's embedding rows."""

    ITEM = 0
    TEXT = 1
    QUERY = 2


@dataclass(frozen=True, slots=True)
class UserSequence:
    """One user: vectors, oldest first, and what each stands for. At least one."""

    vectors: list[Vector]
    kinds: list[Kind]


class RankerModel:
    """The ranker behind the batcher: one sequence a job, one user vector [dimensions] an answer."""

    def __init__(self, session: Session, dimensions: int) -> None:
        self._session = session
        self._dimensions = dimensions

    def run(self, jobs: Sequence[UserSequence]) -> list[Vector]:
        """Pad to the longest and run."""
        time = max(len(job.kinds) for job in jobs)
        vectors = np.zeros((len(jobs), time, self._dimensions), dtype=np.float32)
        kinds = np.zeros((len(jobs), time), dtype=np.int64)
        mask = np.zeros_like(kinds)
        for n, job in enumerate(jobs):
            length = len(job.kinds)
            vectors[n, :length] = job.vectors
            kinds[n, :length] = job.kinds
            mask[n, :length] = 1
        return list(self._session.run({"vectors": vectors, "kinds": kinds, "mask": mask}))
