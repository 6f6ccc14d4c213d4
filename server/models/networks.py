"""The two networks of a bundle: the encoder maps texts to vectors, the ranker vectors to user vectors.

Both pad the rows of a batch to the longest and run an ONNX session. The encoder's vector has two halves, each of unit
length: the first `dimensions` entries are for the ranker and for clients, the rest is the sentence vector of the text,
which is compared with those of the items' texts. A bundle may have no sentence half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from swiftrec.server.arrays import Vector
from swiftrec.server.models.session import Session


def ranker_half(vectors: Vector, dimensions: int) -> Vector:
    """The half of the encoder's vectors [..., both halves] for the ranker and clients: [..., dimensions]."""
    return vectors[..., :dimensions]


def sentence_half(vectors: Vector, dimensions: int) -> Vector:
    """The half that is compared with the items' sentence vectors: [..., sentence dimensions]."""
    return vectors[..., dimensions:]


class EncoderModel:
    """Token ids of texts to vectors, both halves."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, rows: Sequence[Sequence[int]]) -> list[Vector]:
        """Pad to the longest and run."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = row
            mask[n, : len(row)] = 1
        return list(self._session.run({"input_ids": ids, "attention_mask": mask}))


class EventKind(IntEnum):
    """The kind of an event; the numbers are rows of an embedding of the ranker."""

    ITEM = 0
    TEXT = 1
    QUERY = 2


@dataclass(frozen=True, slots=True)
class UserSequence:
    """The events of one user, oldest first: vectors and their kinds. At least one."""

    vectors: list[Vector]
    kinds: list[EventKind]


class RankerModel:
    """Sequences of vectors to user vectors [dimensions]."""

    def __init__(self, session: Session, dimensions: int) -> None:
        self._session = session
        self._dimensions = dimensions

    def run(self, rows: Sequence[UserSequence]) -> list[Vector]:
        """Pad to the longest and run."""
        time = max(len(row.kinds) for row in rows)
        vectors = np.zeros((len(rows), time, self._dimensions), dtype=np.float32)
        kinds = np.zeros((len(rows), time), dtype=np.int64)
        mask = np.zeros_like(kinds)
        for n, row in enumerate(rows):
            length = len(row.kinds)
            vectors[n, :length] = row.vectors
            kinds[n, :length] = row.kinds
            mask[n, :length] = 1
        return list(self._session.run({"vectors": vectors, "kinds": kinds, "mask": mask}))
