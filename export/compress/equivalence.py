"""How far a graph's vectors are from another graph's, and from those that it computes in a batch of other texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.compress.throughput import Encoder
from swiftrec.server.arrays import Vectors

_BATCH = 16
_NONE = 1e9  # difference of a value that is not a number: above every threshold, and valid in JSON


def alone(encoder: Encoder, rows: Sequence[list[int]]) -> Vectors:
    """Vectors [rows, both halves], one text at a time."""
    return np.array([encoder.run([row])[0] for row in rows])


def invariance(encoder: Encoder, rows: Sequence[list[int]], alone_vectors: Vectors) -> float:
    """Largest difference of a vector's entries, alone against in a batch.

    Each text is run once among texts of its length, and once among all lengths, where most of the batch is padding.
    """
    order = np.argsort([len(row) for row in rows], kind="stable")
    batches = -(-len(rows) // _BATCH)
    mixed = order[np.argsort(np.arange(len(rows)) % batches, kind="stable")]
    return max(_difference(encoder, rows, picked, alone_vectors) for picked in (order, mixed))


def _difference(encoder: Encoder, rows: Sequence[list[int]], order: NDArray[np.intp], alone_vectors: Vectors) -> float:
    batches = [order[n : n + _BATCH] for n in range(0, len(order), _BATCH)]
    batched = np.array([v for batch in batches for v in encoder.run([rows[n] for n in batch])])
    return difference(batched, alone_vectors[order])


def difference(a: Vectors, b: Vectors) -> float:
    """Largest difference of two entries; 1e9 if one is not a number."""
    largest = float(np.abs(a - b).max())
    return largest if np.isfinite(largest) else _NONE


def mean_cosine(a: Vectors, b: Vectors, dimensions: int) -> float:
    """Mean cosine, row by row, of the half that differs more; -1 if one is not a number.

    Each row holds a unit vector of `dimensions` for the ranker and behind it, if there is more, one of a sentence.
    """
    products = np.split(a * b, [dimensions], axis=1)
    means = [float(half.sum(1).mean()) for half in products if half.shape[1]]
    return min(means) if np.isfinite(means).all() else -1.0
