"""Token ids to unit vectors, a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.models.session import Session

Vector = NDArray[np.float32]


class EncoderModel:
    """The encoder behind the batcher: one list of token ids a job, one vector [dimensions] an answer."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, jobs: Sequence[Sequence[int]]) -> list[Vector]:
        """Pad to the longest and run."""
        ids = np.zeros((len(jobs), max(map(len, jobs))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for n, job in enumerate(jobs):
            ids[n, : len(job)] = job
            mask[n, : len(job)] = 1
        return list(self._session.run({"input_ids": ids, "attention_mask": mask}))
