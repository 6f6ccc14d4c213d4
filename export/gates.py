"""The gates of a graph: every threshold in one place, and the sentence that a variant is refused with.

A gate that fails takes its variant out; `--allow-lossy` ships it all the same and records the exception, but only for
gates of loss: a graph that is wrong (fusion, parity) or whose answers depend on their batch-mates is never shipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from export.errors import GateError


@dataclass(frozen=True, slots=True)
class Gates:
    """Thresholds. Speed and size are shares of the same student's fp32 graph."""

    max_parity: float = 1e-4  # largest difference of a vector's entries, fp32 graph against PyTorch
    max_ranker_parity: float = 1e-4  # the same of a ranker's user vectors, in batches, as a share of the largest entry
    max_invariance: float = 1e-4  # the same, alone against in a batch
    min_cosine: float = 0.998  # mean cosine to fp32; at .9995 NDCG on text lost .2 %, the quality gates judge the rest
    max_size: float = 0.6  # size of a smaller precision, share of fp32's
    min_speedup: float = 1.05  # below it the int8 of a BERT is not worth a second file
    min_speedup_static: float = 0.85  # a static student's int8 is there for its size


GATES = Gates()


@dataclass(frozen=True, slots=True)
class Failure:
    """A gate that a variant failed. `is_loss`: --allow-lossy may excuse it."""

    gate: str
    value: float
    threshold: float
    is_loss: bool
    comparison: str

    def __str__(self) -> str:
        return f"{self.gate} {self.value:.3g}, {self.comparison} {self.threshold:.3g}"


def at_most(gate: str, value: float, threshold: float, *, is_loss: bool = False) -> list[Failure]:
    """Empty if the value keeps the threshold; not a number never does."""
    return [] if value <= threshold else [Failure(gate, value, threshold, is_loss, "at most")]


def at_least(gate: str, value: float, threshold: float, *, is_loss: bool = False) -> list[Failure]:
    """Empty if the value keeps the threshold; not a number never does."""
    return [] if value >= threshold else [Failure(gate, value, threshold, is_loss, "at least")]


def smaller_precision(cosine: float, size: float, speedup: float | None, *, is_static: bool = False) -> list[Failure]:
    """What an int8 or fp16 graph fails against fp32; `speedup` is None where it cannot be measured."""
    failed = at_least("cosine to fp32", cosine, GATES.min_cosine, is_loss=True)
    failed += at_most("size against fp32", size, GATES.max_size, is_loss=True)
    if speedup is not None:
        least = GATES.min_speedup_static if is_static else GATES.min_speedup
        failed += at_least("speed against fp32", speedup, least, is_loss=True)
    return failed


def fusion(counts: dict[str, int], layers: int) -> list[Failure]:
    """Refuse a graph in which ONNX Runtime's BERT fusion did not match every layer: such a graph is silently slow."""
    exact = {"EmbedLayerNormalization": 1, "Attention": layers, "SkipLayerNormalization": 2 * layers}
    found = {operator: counts.get(operator, 0) for operator in exact}
    exact["BiasGelu or FastGelu"] = layers
    found["BiasGelu or FastGelu"] = counts.get("BiasGelu", 0) + counts.get("FastGelu", 0)
    return [
        Failure(f"fusion: {name}, times", found[name], wanted, is_loss=False, comparison="needs")
        for name, wanted in exact.items()
        if found[name] != wanted
    ]


def static_fusion(counts: dict[str, int]) -> list[Failure]:
    """A static student looks its words up in one table and has at most one product, the projection."""
    failed = at_most("fusion: table look-ups", counts.get("Gather", 0), 1)
    failed += at_least("fusion: table look-ups", counts.get("Gather", 0), 1)
    return failed + at_most("fusion: MatMul, times", counts.get("MatMul", 0) + counts.get("Gemm", 0), 1)


def verdict(failures: Sequence[Failure], *, allow_lossy: bool) -> tuple[str, str]:
    """Why a variant is refused, and what was excused; each empty if there is nothing to say."""
    excused = [f for f in failures if allow_lossy and f.is_loss]
    refused = [f for f in failures if f not in excused]
    return "; ".join(map(str, refused)), "; ".join(map(str, excused))


def require(name: str, failures: Sequence[Failure]) -> None:
    """Stop the export.

    Raises:
        GateError: names the gate, the value and the threshold.
    """
    if failures:
        raise GateError(f"{name}: " + "; ".join(map(str, failures)))
