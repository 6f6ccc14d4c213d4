"""Activation ranges for static int8: lowest and highest value of each channel of a linear layer's input."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from swiftrec.export.compress.graph_rewriter import Floats


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest and highest value of each channel, [channels]."""

    low: Floats
    high: Floats

    @property
    def largest(self) -> Floats:
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
    low: dict[str, list[Floats]] = {name: [] for name in names}
    high: dict[str, list[Floats]] = {name: [] for name in names}
    for row in rows:
        feeds = {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)}
        for name, value in zip(names, session.run(list(names), feeds), strict=True):
            low[name].append(value.min(axis=(0, 1)))
            high[name].append(value.max(axis=(0, 1)))
    return {name: Range(np.min(low[name], axis=0), np.max(high[name], axis=0)) for name in names}
