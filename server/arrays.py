"""Types of arrays that several modules pass on: what a row is, the shape and the dtype, each written once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""One vector, [dimensions]."""
Vectors = NDArray[np.float32]
"""One vector a row, [rows, dimensions]."""
Scores = NDArray[np.float32]
"""Scores of items, and the weights and boosts that they are made of, [items] or [requests, items]."""
Floats = NDArray[np.float64]
"""Numbers in double precision: sums, probabilities, metrics."""
Positions = NDArray[np.int64]
"""Indices of items, users or rows, from 0."""
StoredPositions = NDArray[np.int32]
"""Positions as they are stored in files and indices: half the memory."""
AnyPositions = NDArray[np.signedinteger[Any]]
"""Positions of either width."""
Mask = NDArray[np.bool_]
"""Which items, users or rows are selected."""
