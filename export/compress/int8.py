"""Static int8 of a fused BERT graph, in the operators that ONNX Runtime's CPU kernels run fastest.

Every linear layer over tokens becomes QuantizeLinear -> MatMulIntegerToFloat (u8 activations with one static scale, s8
weights with a scale for each output), which ends in float with its bias added: no second rounding, no separate bias.
Scales are fixed, so a row's result is its own; the projection behind the pooling stays float, since the last bit of a
float sum does depend on padding and must not meet a rounding. Gamma and beta of a layer normalisation move into the
weights behind it (Wei et al., "Outlier Suppression", 2022); `calibration` has the other two that keep the precision.

Word embeddings are int8 with a scale for each word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from swiftrec.export.compress.calibration import NeuronSplit, Range, balance, calibrate, split_neurons
from swiftrec.export.compress.graph_rewriter import Constants, Graph, gather_rows, to_int8
from swiftrec.export.compress.layernorm import Norms
from swiftrec.export.compress.onnx_file import CONTRIB

_PRODUCERS = {"EmbedLayerNormalization", "SkipLayerNormalization", "Attention", "BiasGelu", "FastGelu"}
_ATTENTION = {"num_heads", "mask_filter_value", "scale"}


@dataclass(frozen=True, slots=True)
class Form:
    """How weights are written; activations are u8. Processors differ in which they multiply fast and without overflow.

    Args:
        name: "u8s8": signed weights. "u8u8": unsigned ones. "u8s7": signed in seven bits, which cannot overflow the
            16-bit sums of AVX2 and AVX-512 without VNNI.
    """

    name: str = "u8s8"

    def weights(self, weight: Constants) -> tuple[NDArray[np.generic], Constants, NDArray[np.generic]]:
        """Codes, the scale of each output and the zero point of each output."""
        codes, scales = to_int8(weight, axis=0, largest=63 if self.name == "u8s7" else 127)
        zeros = np.zeros(weight.shape[1], np.int8)
        if self.name == "u8u8":
            return (codes.astype(np.int16) + 128).astype(np.uint8), scales[0], zeros.astype(np.uint8) + np.uint8(128)
        return codes, scales[0], zeros


FORMS = (Form("u8s8"), Form("u8u8"), Form("u8s7"))


_FORM_OF = {"avx2": "u8u8", "avx512": "u8s7", "vnni": "u8s8", "arm64": "u8s8"}


def form_of(target: str) -> Form:
    """The form for an instruction set: "avx2", "avx512", "vnni" or "arm64"; never run on arm64."""
    return Form(_FORM_OF[target])


def quantise_bert(fused: Path, target: Path, ranges: dict[str, Range], form: Form) -> None:
    """Write the int8 form of a fused graph; `ranges` as `observe` gave them."""
    graph = Graph(fused)
    _Int8(graph, ranges, form).rewrite()
    graph.save(target)


def observe(fused: Path, rows: Sequence[Sequence[int]]) -> dict[str, Range]:
    """Ranges of what linear layers over tokens read, from the token ids of calibration texts."""
    graph = Graph(fused)
    linear = [n for n in graph.nodes if n.op_type in {"Attention", "MatMul"} and graph.is_constant(n.input[1])]
    tokens = {n.output[0] for n in graph.nodes if n.op_type in _PRODUCERS}
    names = sorted({n.input[0] for n in linear} & tokens)
    return calibrate(fused, rows, names)


@dataclass(frozen=True, slots=True)
class _Norm:
    """A layer normalisation: its output is `rows` * gamma + beta."""

    rows: str
    gamma: Constants
    beta: Constants

    def before(self, reached: Range) -> Range:
        """The range of `rows`, from that of the output."""
        gamma = np.where(self.gamma == 0, np.float32(1e-6), self.gamma)
        ends = (reached.low - self.beta) / gamma, (reached.high - self.beta) / gamma
        return Range(np.minimum(*ends), np.maximum(*ends))


@dataclass(frozen=True, slots=True)
class _Activation:
    """Quantised: tensor, scale and zero point by name, and what each channel was multiplied by before."""

    tensor: str
    scale: str
    zero: str
    factors: Constants


class _Int8:
    """One pass over the graph: rules by operator, everything else is kept."""

    def __init__(self, graph: Graph, ranges: dict[str, Range], form: Form) -> None:
        self._graph, self._ranges, self._form, self._emit = graph, ranges, form, Norms(graph)
        self._norms: dict[str, _Norm] = {}
        self._products: dict[str, NodeProto] = {}  # MatMuls that wait for their bias, by output
        self._splits: dict[str, NeuronSplit] = {}
        self._rules: dict[str, Callable[[NodeProto], None]] = {
            "EmbedLayerNormalization": self._embed,
            "Attention": self._attention,
            "MatMul": self._matmul,
            "BiasGelu": self._gelu,
            "FastGelu": self._gelu,
            "SkipLayerNormalization": self._skip_norm,
        }

    def rewrite(self) -> None:
        """Emit the whole graph."""
        for node in self._graph.nodes:
            self._rules.get(node.op_type, self._keep)(node)

    def _keep(self, node: NodeProto) -> None:
        for name in set(node.input) & self._norms.keys():
            norm = self._norms.pop(name)  # a reader that cannot take gamma and beta into its weights
            self._emit.scale(norm.rows, norm.gamma, norm.beta, name)
        self._graph.keep(node)

    def _embed(self, node: NodeProto) -> None:
        gamma, beta = self._graph.floats(node.input[5]), self._graph.floats(node.input[6])
        self._norms[node.output[0]] = _Norm(self._emit.embed(node, small=True), gamma, beta)

    def _attention(self, node: NodeProto) -> None:
        weight, bias = self._graph.floats(node.input[1]), self._graph.floats(node.input[2])
        weight, bias, rows = self._fold(node.input[0], weight, bias)
        entry = self._quantised(node.input[0], rows, weight)
        parts = zip(np.split(weight, 3, axis=1), np.split(bias, 3), strict=True)
        inputs = [*(self._product(entry, w, b) for w, b in parts), "", node.input[3]]
        kept = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in _ATTENTION}
        self._graph.emit("MultiHeadAttention", inputs, node.output[0], domain=CONTRIB, **kept)

    def _matmul(self, node: NodeProto) -> None:
        if node.input[0] in self._ranges and self._graph.is_constant(node.input[1]):
            self._products[node.output[0]] = node
        else:
            self._keep(node)

    def _gelu(self, node: NodeProto) -> None:
        """The tanh form: its error is below a step of the int8 that follows."""
        split = self._splits[node.output[0]] = split_neurons(self._ranges[node.output[0]].high)
        product = self._products.pop(node.input[0])
        weight, bias = self._graph.floats(product.input[1]), self._graph.floats(node.input[1])
        linear = self._linear(product.input[0], weight[:, split.neurons], bias[split.neurons] - split.shifts)
        self._graph.emit("FastGelu", [linear], node.output[0], domain=CONTRIB)

    def _skip_norm(self, node: NodeProto) -> None:
        branch, skip = sorted(node.input[:2], key=lambda name: name not in self._products)
        product, norm = self._products.pop(branch), self._norms[skip]
        weight, bias = self._graph.floats(product.input[1]), norm.beta
        if product.input[0] in self._splits:
            weight = weight[self._splits[product.input[0]].neurons]
        if len(node.input) > 4:
            bias = bias + self._graph.floats(node.input[4])
        kept = self._graph.emit("Mul", [norm.rows, self._graph.add(norm.gamma, "gamma")])
        total = self._graph.emit("Add", [self._linear(product.input[0], weight, bias), kept])
        gamma, beta = self._graph.floats(node.input[2]), self._graph.floats(node.input[3])
        self._norms[node.output[0]] = _Norm(self._emit.normalise(total, node), gamma, beta)

    def _linear(self, source: str, weight: Constants, bias: Constants) -> str:
        """Emit source @ weight + bias."""
        weight, bias, rows = self._fold(source, weight, bias)
        return self._product(self._quantised(source, rows, weight), weight, bias)

    def _fold(self, source: str, weight: Constants, bias: Constants) -> tuple[Constants, Constants, str]:
        """Gamma and beta of a normalised source moved into weight and bias; the tensor that is left."""
        if source not in self._norms:
            return weight, bias, source
        norm = self._norms[source]
        return norm.gamma[:, None] * weight, bias + norm.beta @ weight, norm.rows

    def _quantised(self, source: str, rows: str, weight: Constants) -> _Activation:
        """Quantise an activation; behind a normalisation its channels are balanced against the weights that read it."""
        reached, factors = self._ranges[source], np.ones(len(weight), np.float32)
        if source in self._norms:
            reached = self._norms[source].before(reached)
            factors = balance(reached, weight)
            rows = self._graph.emit("Mul", [rows, self._graph.add(factors, "balance")])
            reached = Range(reached.low * factors, reached.high * factors)
        top = self._splits[source].top if source in self._splits else float(reached.high.max())
        low, high = min(0.0, float(reached.low.min())), max(0.0, top)
        step = max(high - low, 1e-6) / 255
        scale = self._graph.add(np.array(step, np.float32), "scale")
        zero = self._graph.add(np.array(round(-low / step), np.uint8), "zero")
        return _Activation(self._graph.emit("QuantizeLinear", [rows, scale, zero]), scale, zero, factors)

    def _product(self, entry: _Activation, weight: Constants, bias: Constants) -> str:
        arrays = self._form.weights(weight / entry.factors[:, None])
        codes, scales, zeros = (self._graph.add(array, "weight") for array in arrays)
        inputs = [entry.tensor, codes, entry.scale, scales, entry.zero, zeros, self._graph.add(bias, "bias")]
        return self._graph.emit("MatMulIntegerToFloat", inputs, domain=CONTRIB)


def quantise_static(fused: Path, target: Path) -> None:
    """Write a static student with its table in int8, a scale for each word; the rest is a few vectors of float."""
    graph = Graph(fused)
    for node in graph.nodes:
        if node.op_type == "Gather" and graph.is_constant(node.input[0]):
            gather_rows(graph, graph.floats(node.input[0]), node.input[1], node.output[0])
        else:
            graph.keep(node)
    graph.save(target)
