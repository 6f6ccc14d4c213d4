"""fp16 graphs for CUDA and TensorRT: inputs stay int64, the output float32. Never run on a GPU; checked on CPU."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16

from swiftrec.export.compress.onnx_file import save_graph
from swiftrec.export.errors import ExportError


def to_half(fused: Path, target: Path) -> None:
    """Convert an fp32 graph. Fused operators (Attention, SkipLayerNormalization...) have CUDA kernels in fp16.

    Raises:
        ExportError: a weight, an input or an output has the wrong type.
    """
    logging.getLogger("onnxruntime.transformers.float16").setLevel(logging.ERROR)
    save_graph(convert_float_to_float16(onnx.load(fused), keep_io_types=True), target)
    check_half(target)


def check_half(path: Path) -> None:
    """Check structurally that every matrix is fp16, the inputs are int64 and the outputs float32.

    Raises:
        ExportError: names those with another type.
    """
    graph = onnx.load(path).graph
    wrong = [t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT and len(t.dims) > 1]
    wrong += [i.name for i in graph.input if i.type.tensor_type.elem_type != TensorProto.INT64]
    wrong += [o.name for o in graph.output if o.type.tensor_type.elem_type != TensorProto.FLOAT]
    if wrong:
        raise ExportError(f"{path.name}: not in the type that an fp16 graph needs: {', '.join(wrong)}")
