"""Token ids to vectors, a batch at a time.

A vector has two halves, each of length 1: the first `dimensions` entries are for the ranker and for clients, the rest
is the text's sentence vector, which is compared with those of the items' texts. A bundle may have no sentence half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.models.session import Session

Vector = NDArray[np.float32]


def ranker_half(vectors: Vector, dimensions: int) -> Vector:
    """What the ranker and clients read of the encoder's vectors [..., both halves]: [..., dimensions]."""
    return vectors[..., :dimensions]


def sentence_half(vectors: Vector, dimensions: int) -> Vector:
    """What is compared with the items' sentence vectors: [..., sentence dimensions]."""
    return vectors[..., dimensions:]


class EncoderModel:
    """The encoder behind the batcher: one list of token ids a job, one vector with both halves an answer."""

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
