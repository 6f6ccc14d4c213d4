"""Layer normalisation and embeddings in operators that ONNX Runtime vectorises on CPU.

Its SkipLayerNormalization and EmbedLayerNormalization are scalar loops: 100 us for 50 tokens of width 384 where Add and
InstanceNormalization (a token is a channel) take 20.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper

from swiftrec.export.compress.graph_rewriter import Constants, Graph, gather_rows


class Norms:
    """Emits normalisations into one graph. Its first nodes are shared by all of them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._length = graph.emit("Shape", ["input_ids"], start=1, end=2)
        unit = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
        self._ones = graph.emit("ConstantOfShape", [self._length], value=unit)
        self._zeros = graph.emit("ConstantOfShape", [self._length])

    def normalise(self, total: str, node: NodeProto) -> str:
        """Mean 0 and variance 1 for each token of `total` [batch, tokens, hidden]; epsilon as the node has it."""
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        return self._graph.emit("InstanceNormalization", [total, self._ones, self._zeros], epsilon=epsilon)

    def scale(self, rows: str, gamma: Constants, beta: Constants, output: str = "") -> str:
        """Emit rows * gamma + beta."""
        scaled = self._graph.emit("Mul", [rows, self._graph.add(gamma, "gamma")])
        return self._graph.emit("Add", [scaled, self._graph.add(beta, "beta")], output)

    def embed(self, node: NodeProto, *, small: bool) -> str:
        """Words and positions, normalised but not scaled, and the lengths that attention reads.

        The trace gives segment 0 to every token. `small`: the words' vectors are int8.
        """
        graph = self._graph
        word, position, segment = (graph.floats(name) for name in node.input[2:5])
        positions = graph.add(position + segment[0], "positions")
        places = graph.emit("Slice", [positions, graph.add(np.array([0]), "start"), self._length])
        ids = node.input[0]
        words = gather_rows(graph, word, ids) if small else graph.emit("Gather", [graph.add(word, "words"), ids])
        graph.emit("ReduceSum", [node.input[7], graph.add(np.array([1]), "axis")], node.output[1], keepdims=0)
        return self.normalise(graph.emit("Add", [words, places]), node)


def vectorise_norms(fused: Path, target: Path) -> None:
    """Write the fused fp32 graph with its normalisations in vectorised operators."""
    graph = Graph(fused)
    norms = Norms(graph)
    for node in graph.nodes:
        if node.op_type == "EmbedLayerNormalization":
            norms.scale(
                norms.embed(node, small=False),
                graph.floats(node.input[5]),
                graph.floats(node.input[6]),
                node.output[0],
            )
        elif node.op_type == "SkipLayerNormalization":
            total = graph.emit("Add", [node.input[0], node.input[1]])
            if len(node.input) > 4:
                total = graph.emit("Add", [total, node.input[4]])
            norms.scale(
                norms.normalise(total, node), graph.floats(node.input[2]), graph.floats(node.input[3]), node.output[0]
            )
        else:
            graph.keep(node)
    graph.save(target)
