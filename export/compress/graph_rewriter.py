"""A graph under rewriting: the nodes are walked in order, and each is kept or others are emitted in its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from swiftrec.export.compress.onnx_file import save_graph
from swiftrec.export.errors import ExportError

Array = NDArray[np.generic]
Constants = NDArray[np.float32]
"""Weights and other constants of a graph."""


class Graph:
    """Constants by name, and the nodes that have been emitted so far."""

    def __init__(self, source: Path) -> None:
        self._model = onnx.load(source)
        self._tensors: dict[str, TensorProto] = {t.name: t for t in self._model.graph.initializer}
        self._emitted: list[NodeProto] = []
        self._names = 0
        self.nodes: list[NodeProto] = list(self._model.graph.node)

    def is_constant(self, name: str) -> bool:
        """Whether `name` is a weight."""
        return name in self._tensors

    def constant(self, name: str) -> Array:
        """The weight of that name.

        Raises:
            ExportError: the graph computes it.
        """
        if name not in self._tensors:
            raise ExportError(f"the graph computes {name!r}, which should be a weight")
        return np.asarray(numpy_helper.to_array(self._tensors[name]))

    def floats(self, name: str) -> Constants:
        """The same as float32."""
        return self.constant(name).astype(np.float32)

    def add(self, array: Array, hint: str) -> str:
        """Make a weight of an array; return its name."""
        name = self._fresh(hint)
        self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def emit(self, operator: str, inputs: list[str], output: str = "", *, domain: str = "", **attributes: Any) -> str:  # noqa: ANN401
        """Append a node with one output; return the output's name, a new one if none is given."""
        output = output or self._fresh(operator)
        self._emitted.append(
            helper.make_node(operator, inputs, [output], self._fresh("node"), domain=domain, **attributes)
        )
        return output

    def keep(self, node: NodeProto) -> None:
        """Append a node as it is."""
        self._emitted.append(node)

    def save(self, target: Path) -> None:
        """Write what was emitted, with the weights that it needs."""
        graph = self._model.graph
        live = _live(self._emitted, {output.name for output in graph.output})
        used = {name for node in live for name in node.input}
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(live)
        graph.initializer.extend(tensor for name, tensor in self._tensors.items() if name in used)
        save_graph(self._model, target)

    def _fresh(self, hint: str) -> str:
        self._names += 1
        return f"{hint}.{self._names}"


def _live(nodes: list[NodeProto], needed: set[str]) -> list[NodeProto]:
    """The nodes that an output needs, in order."""
    live = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            live.append(node)
    return live[::-1]


def count_operators(path: Path) -> dict[str, int]:
    """How often each operator is in the graph at `path`."""
    return dict(Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node))


def to_int8(weight: Constants, axis: int, largest: int = 127) -> tuple[NDArray[np.int8], Constants]:
    """Codes in -largest..largest and the scale of each slice along `axis` (kept as a dimension of 1)."""
    scales = np.maximum(np.abs(weight).max(axis, keepdims=True), np.float32(1e-12)) / np.float32(largest)
    return np.rint(weight / scales).astype(np.int8), scales.astype(np.float32)


def gather_rows(graph: Graph, table: Constants, ids: str, output: str = "") -> str:
    """Emit table[ids] from an int8 table with a scale for each row."""
    codes, scales = to_int8(table, axis=1)
    picked = graph.emit("Gather", [graph.add(codes, "words"), ids])
    scale = graph.emit("Gather", [graph.add(scales, "word_scales"), ids])
    return graph.emit("Mul", [graph.emit("Cast", [picked], to=TensorProto.FLOAT), scale], output)
