"""Activation ranges for static int8, and two rewritings that keep one scale per activation precise despite outliers.

A range is the lowest and the highest value of each channel of a linear layer's input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from swiftrec.export.compress.graph_rewriter import Constants

_BALANCE = 0.1  # 0 makes the channels of an activation equal, 1 the rows of its weights
_ORDINARY = 0.99  # share of a layer's neurons that are written once


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest and highest value of each channel, [channels]."""

    low: Constants
    high: Constants

    @property
    def largest(self) -> Constants:
        """Largest absolute value of each channel, never 0."""
        return np.maximum(np.maximum(np.abs(self.low), np.abs(self.high)), np.float32(1e-6))


def calibrate(graph: Path, rows: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Range]:
    """Run the graph on each row of token ids alone; the range of each named tensor [1, tokens, channels]."""
    model = onnx.load(graph)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
        path = Path(scratch) / "observed.onnx"
        onnx.save(model, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    low: dict[str, list[Constants]] = {name: [] for name in names}
    high: dict[str, list[Constants]] = {name: [] for name in names}
    for row in rows:
        feeds = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)}
        for name, value in zip(names, session.run(list(names), feeds), strict=True):
            low[name].append(value.min(axis=(0, 1)))
            high[name].append(value.max(axis=(0, 1)))
    return {name: Range(np.min(low[name], axis=0), np.max(high[name], axis=0)) for name in names}


def balance(reached: Range, weight: Constants) -> Constants:
    """Factor of each channel, geometric mean 1, that brings the channels' ranges together at some cost to the weights.

    After Xiao et al., "SmoothQuant", 2023; their factors are these with a balance of one half.
    """
    rows = np.maximum(np.abs(weight).max(1), np.float32(1e-6))
    factors = rows**_BALANCE / reached.largest ** (1 - _BALANCE)
    balanced: Constants = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return balanced


@dataclass(frozen=True, slots=True)
class NeuronSplit:
    """Which neuron each column computes, what is subtracted from its bias, and where the quantiser saturates."""

    neurons: NDArray[np.int64]
    shifts: Constants
    top: float


def split_neurons(high: Constants) -> NeuronSplit:
    """Replace each neuron whose values are far above the others by several copies, each saturated at `top`.

    A few neurons of BERT reach 27 on [CLS] while others stay below 5; with one scale these would have few steps.
    For such values gelu(x) is min(gelu(x), top) + gelu(x - top) to within .17, and saturating costs nothing: the u8
    quantiser does it.
    """
    top = max(float(np.quantile(high, _ORDINARY)), 1e-3)
    copies = np.maximum(np.ceil(high / top), 1).astype(np.int64)
    neurons = np.repeat(np.arange(len(high)), copies)
    nth = np.arange(len(neurons)) - np.searchsorted(neurons, neurons)
    return NeuronSplit(neurons, (nth * top).astype(np.float32), top)
