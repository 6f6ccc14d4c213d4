"""Types of arrays that many modules pass on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""One vector."""
Vectors = NDArray[np.float32]
"""One vector a row."""
Scores = NDArray[np.float32]
"""One row a case, one column an item."""
Floats = NDArray[np.float64]
"""Numbers in double precision: weights, probabilities, metrics of cases."""
Positions = NDArray[np.int64]
"""Numbers of items, users or rows, from 0."""
Histories = list[NDArray[np.int64]]
"""The items of each user or case, oldest first."""
