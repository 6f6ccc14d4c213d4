"""The gates of a graph: every threshold in one place, and the sentence that a variant is refused with.

A gate that fails takes its variant out; `--allow-lossy` ships it all the same and records the exception, but only for
gates of loss: a graph that is wrong (fusion, parity) or whose answers depend on their batch-mates is never shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swiftrec.export.errors import GateError


@dataclass(frozen=True, slots=True)
class Gates:
    """Thresholds. Speed and size are shares of the same student's fp32 graph."""

    max_parity: float = 1e-4  # largest difference of a vector's entries, fp32 graph against PyTorch
    max_ranker_parity: float = 1e-4  # the same of a ranker's user vectors, in batches, as a share of the largest entry
    max_invariance: float = 1e-4  # the same, alone against in a batch
    max_invariance_half: float = 5e-4  # of a graph in half precision, whose numbers near .25 are 2.4e-4 apart
    min_cosine: float = 0.998  # mean cosine to fp32; at .9995 NDCG on text lost .2 %, the quality gates judge the rest
    max_size: float = 0.6  # size of a smaller precision, share of fp32's
    min_speedup: float = 1.05  # below it the int8 of a BERT is not worth a second file
    min_speedup_static: float = 0.85  # a static student's int8 is there for its size
    min_packaged: float = 0.99  # of the evaluated top ten that the packaged bundle answers; near ties may swap places


GATES = Gates()


@dataclass(frozen=True, slots=True)
class Outcome:
    """A gate that a graph went through, as the manifest has it.

    Args:
        gate: what was measured.
        value: what was found.
        threshold: what was wanted.
        comparison: "at most", "at least", or "needs" where nothing but the threshold will do.
        is_loss: whether --allow-lossy may excuse it.
        passed: whether the value keeps the threshold; not a number never does.
    """

    gate: str
    value: float
    threshold: float
    comparison: str
    is_loss: bool
    passed: bool

    def __str__(self) -> str:
        return f"{self.gate} {self.value:.3g}, {self.comparison} {self.threshold:.3g}"


def at_most(gate: str, value: float, threshold: float, *, is_loss: bool = False) -> Outcome:
    """A value that must not be above the threshold."""
    return Outcome(gate, value, threshold, "at most", is_loss, passed=value <= threshold)


def at_least(gate: str, value: float, threshold: float, *, is_loss: bool = False) -> Outcome:
    """A value that must not be below the threshold."""
    return Outcome(gate, value, threshold, "at least", is_loss, passed=value >= threshold)


def needs(gate: str, value: float, threshold: float) -> Outcome:
    """A number that must be the threshold."""
    return Outcome(gate, value, threshold, "needs", is_loss=False, passed=value == threshold)


def smaller_precision(cosine: float, size: float, speedup: float | None, *, is_static: bool = False) -> list[Outcome]:
    """An int8 or fp16 graph against fp32; `speedup` is None where it cannot be measured."""
    found = [
        at_least("cosine to fp32", cosine, GATES.min_cosine, is_loss=True),
        at_most("size against fp32", size, GATES.max_size, is_loss=True),
    ]
    if speedup is not None:
        least = GATES.min_speedup_static if is_static else GATES.min_speedup
        found.append(at_least("speed against fp32", speedup, least, is_loss=True))
    return found


def ranker_parity(value: float) -> Outcome:
    """A ranker's graph, or a small one's, against its PyTorch module."""
    return at_most("parity with PyTorch", value, GATES.max_ranker_parity)


def packaged(share: float) -> Outcome:
    """The bundle as it was packaged, behind the server's whole pipeline, against what stage `verify` evaluated."""
    return at_least("share of the evaluated top ten", share, GATES.min_packaged)


def fusion(counts: dict[str, int], layers: int) -> list[Outcome]:
    """Whether ONNX Runtime's BERT fusion matched every layer: a graph in which it did not is silently slow."""
    wanted = {"EmbedLayerNormalization": 1, "Attention": layers, "SkipLayerNormalization": 2 * layers}
    found = [needs(f"fusion: {name}, times", counts.get(name, 0), times) for name, times in wanted.items()]
    gelus = counts.get("BiasGelu", 0) + counts.get("FastGelu", 0)
    return [*found, needs("fusion: BiasGelu or FastGelu, times", gelus, layers)]


def static_fusion(counts: dict[str, int]) -> list[Outcome]:
    """A static student looks its words up in one table and has at most one product, the projection."""
    products = counts.get("MatMul", 0) + counts.get("Gemm", 0)
    return [
        needs("fusion: table look-ups", counts.get("Gather", 0), 1),
        at_most("fusion: MatMul, times", products, 1),
    ]


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that did not pass."""
    return [outcome for outcome in outcomes if not outcome.passed]


def verdict(outcomes: Sequence[Outcome], *, allow_lossy: bool) -> tuple[str, str]:
    """Why a variant is refused, and what was excused; each empty if there is nothing to say."""
    failed = failures(outcomes)
    excused = [f for f in failed if allow_lossy and f.is_loss]
    refused = [f for f in failed if f not in excused]
    return "; ".join(map(str, refused)), "; ".join(map(str, excused))


def require(name: str, outcome: Outcome) -> None:
    """Stop the export: for what there is only one of.

    Raises:
        GateError: names the gate, the value and the threshold.
    """
    if not outcome.passed:
        raise GateError(f"{name}: {outcome}")
