"""The gates: every threshold that a graph, a variant or a bundle must keep, and how a value is judged by it.

A variant that fails a gate is refused. `--allow-lossy` ships it anyway and records the exception, but only if all
gates that it failed measure a loss: a graph that is wrong (fusion, parity), or whose results depend on the other texts
of a batch, is never shipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from swiftrec.export.errors import GateError

Relation = Literal["at most", "at least", "needs"]

EVERY_TASK = "every task"
COLD_GATE = "cold minus the frozen encoder"
MIN_COLD_CASES = 100  # with fewer, a few cases would decide, so nothing is refused by them
_NO_TASKS = ("overlap", "cosine")


@dataclass(frozen=True, slots=True)
class Gate:
    """A measured value and its threshold, as the manifest has it.

    Args:
        gate: what was measured.
        value: the measured value.
        threshold: what the value is compared with.
        passed: whether the value keeps the threshold; a value that is not a number never does.
        comparison: "at most", "at least", or "needs" if only the threshold itself passes.
        is_loss: whether --allow-lossy may excuse a failure.
    """

    gate: str
    value: float
    threshold: float
    passed: bool
    comparison: Relation = "at least"
    is_loss: bool = True

    def __str__(self) -> str:
        return f"{self.gate} {self.value:.3g}, {self.comparison} {self.threshold:.3g}"


def at_most(gate: str, value: float, threshold: float, *, is_loss: bool = False) -> Gate:
    """A value that must not be above the threshold."""
    return Gate(gate, value, threshold, value <= threshold, "at most", is_loss)


def at_least(gate: str, value: float, threshold: float, *, is_loss: bool = False) -> Gate:
    """A value that must not be below the threshold."""
    return Gate(gate, value, threshold, value >= threshold, "at least", is_loss)


def needs(gate: str, value: float, threshold: float) -> Gate:
    """A value that must equal the threshold."""
    return Gate(gate, value, threshold, value == threshold, "needs", is_loss=False)


@dataclass(frozen=True, slots=True)
class GraphThresholds:
    """Thresholds of graphs. Speed and size are shares of the same student's fp32 graph."""

    max_parity: float = 1e-4  # largest difference of a vector's entries, fp32 graph and PyTorch
    max_ranker_parity: float = 1e-4  # the same of a ranker's user vectors, in batches, as a share of the largest entry
    max_invariance: float = 1e-4  # the same, alone and in a batch
    max_invariance_half: float = 5e-4  # the same in half precision, whose steps near .25 are 2.4e-4
    min_cosine: float = 0.998  # mean cosine to fp32; at .9995 NDCG on text lost .2 %, the quality gates judge the rest
    max_size: float = 0.6  # size of a smaller precision, share of fp32's
    min_speedup: float = 1.05  # below it the int8 of a BERT is not worth a second file
    min_speedup_static: float = 0.85  # the int8 of a static student is shipped for its size
    min_packaged: float = 0.99  # share of the evaluated top ten that the packaged bundle returns; near ties may differ


GATES = GraphThresholds()


@dataclass(frozen=True, slots=True)
class QualityThresholds:
    """Quality gates: what each shipped variant must keep of the teacher, and what the default variant must keep.

    Args:
        shipped: gate -> lowest value. A task's gate is the variant's NDCG@10 as a share of the teacher's on the same
            task; `EVERY_TASK` stands for each task without its own entry. `overlap` is the share of the teacher's top
            ten on text; `cosine`, used only without interactions, is that of the variant's vectors to the teacher's.
        default: the same for a device's default.
    """

    shipped: Mapping[str, float]
    default: Mapping[str, float]

    def judge(self, values: Mapping[str, float], *, as_default: bool = False) -> list[Gate]:
        """The gate of every value that has a threshold."""
        thresholds = self.default if as_default else self.shipped
        pairs = ((gate, value, threshold_of(thresholds, gate)) for gate, value in values.items())
        return [at_least(gate, value, least, is_loss=True) for gate, value, least in pairs if least is not None]


QUALITY = QualityThresholds(
    shipped=MappingProxyType({EVERY_TASK: 0.90, "overlap": 0.50, "cosine": 0.90}),
    default=MappingProxyType({EVERY_TASK: 0.98, "overlap": 0.75, "cosine": 0.95}),
)


def is_task(gate: str) -> bool:
    """Whether a quality gate is that of a task."""
    return gate not in _NO_TASKS


def threshold_of(thresholds: Mapping[str, float], gate: str) -> float | None:
    """The threshold of a quality gate; None if it has none."""
    return thresholds.get(gate, thresholds.get(EVERY_TASK) if is_task(gate) else None)


def smaller_precision(cosine: float, size: float, speedup: float | None, *, is_static: bool = False) -> list[Gate]:
    """The gates of an int8 or fp16 graph against fp32; `speedup` is None if it cannot be measured."""
    judged = [
        at_least("cosine to fp32", cosine, GATES.min_cosine, is_loss=True),
        at_most("size against fp32", size, GATES.max_size, is_loss=True),
    ]
    if speedup is not None:
        least = GATES.min_speedup_static if is_static else GATES.min_speedup
        judged.append(at_least("speed against fp32", speedup, least, is_loss=True))
    return judged


def ranker_parity(value: float) -> Gate:
    """The ranker's graph against its PyTorch module."""
    return at_most("parity with PyTorch", value, GATES.max_ranker_parity)


def packaged(share: float) -> Gate:
    """The packaged bundle in the server's pipeline against what stage `final` computed."""
    return at_least("share of the evaluated top ten", share, GATES.min_packaged)


def fusion(counts: Mapping[str, int], layers: int) -> list[Gate]:
    """Whether ONNX Runtime's BERT fusion matched every layer: a graph that it did not match is slow without a warning.

    Args:
        counts: operator -> how often the graph has it.
        layers: transformer layers of the student.
    """
    expected = {"EmbedLayerNormalization": 1, "Attention": layers, "SkipLayerNormalization": 2 * layers}
    judged = [needs(f"fusion: {name}, times", counts.get(name, 0), times) for name, times in expected.items()]
    activations = counts.get("BiasGelu", 0) + counts.get("FastGelu", 0)
    return [*judged, needs("fusion: BiasGelu or FastGelu, times", activations, layers)]


def static_fusion(counts: Mapping[str, int]) -> list[Gate]:
    """Whether a static student looks its words up in one table and has at most one product, the projection."""
    products = counts.get("MatMul", 0) + counts.get("Gemm", 0)
    return [
        needs("fusion: table look-ups", counts.get("Gather", 0), 1),
        at_most("fusion: MatMul, times", products, 1),
    ]


def failures(gates: Iterable[Gate]) -> list[Gate]:
    """The gates that did not pass."""
    return [gate for gate in gates if not gate.passed]


def verdict(gates: Iterable[Gate], *, allow_lossy: bool) -> tuple[str, str]:
    """Why a variant is refused, and what was excused, in words; each empty if there is nothing."""
    failed = failures(gates)
    excused = [gate for gate in failed if allow_lossy and gate.is_loss]
    refused = [gate for gate in failed if gate not in excused]
    return "; ".join(map(str, refused)), "; ".join(map(str, excused))


def require(name: str, gate: Gate) -> None:
    """Stop the export if a gate failed that must not.

    Raises:
        GateError: names what failed, the gate, the value and the threshold.
    """
    if not gate.passed:
        raise GateError(f"{name}: {gate}")
