"""Two rewritings that keep one static int8 scale per activation precise in spite of BERT's outliers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.compress.calibration import Range
from swiftrec.export.compress.graph_rewriter import Floats

_BALANCE = 0.1  # 0 makes the channels of an activation equal, 1 the rows of its weights
_ORDINARY = 0.99  # share of a layer's neurons that are written once


def balance(reached: Range, weight: Floats) -> Floats:
    """Factor of each channel, geometric mean 1, that brings the channels' ranges together at some cost to the weights.

    After Xiao et al., "SmoothQuant", 2023; their factors are these with a balance of one half.
    """
    rows = np.maximum(np.abs(weight).max(1), np.float32(1e-6))
    factors = rows**_BALANCE / reached.largest ** (1 - _BALANCE)
    balanced: Floats = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return balanced


@dataclass(frozen=True, slots=True)
class Split:
    """Which neuron each column computes, what is subtracted from its bias, and where the quantiser saturates."""

    neurons: NDArray[np.int64]
    shifts: Floats
    top: float


def split_neurons(high: Floats) -> Split:
    """Replace each neuron whose values are far above the others by several copies, each saturated at `top`.

    A few neurons of BERT reach 27 on [CLS] while others stay below 5; with one scale these would have few steps.
    For such values gelu(x) is min(gelu(x), top) + gelu(x - top) to within .17, and saturating costs nothing: the u8
    quantiser does it.
    """
    top = max(float(np.quantile(high, _ORDINARY)), 1e-3)
    copies = np.maximum(np.ceil(high / top), 1).astype(np.int64)
    neurons = np.repeat(np.arange(len(high)), copies)
    nth = np.arange(len(neurons)) - np.searchsorted(neurons, neurons)
    return Split(neurons, (nth * top).astype(np.float32), top)
