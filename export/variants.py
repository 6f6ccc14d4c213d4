"""Variants: one encoder graph each, the rungs of the ladder, with what was measured of it before quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from swiftrec.export.gates import Outcome

VARIANTS = "variants.json"


@dataclass(frozen=True, slots=True)
class Variant:
    """A student in one precision for one kind of device.

    Args:
        name: "<student>-<precision>", as `--variant` of the server takes it: "bert3-int8", "static-fp32"; "bert3-trt"
            is the fp16 graph for TensorRT.
        student: name of the student: "bert3" (three layers of the teacher's width), "bert2x192", "static".
        precision: "fp32", "int8" or "fp16".
        device: "cpu", "cuda" or "tensorrt": what the graph is meant for.
        file: the graph, beside this record.
        layers: transformer layers; 0 for the static student.
        hidden: width of the token vectors.
        megabytes: size of the graph, 10^6 bytes.
        texts_per_s_core: one thread of this machine, sorted by length, best batch; 0 if it cannot run here.
        ms_batch1: median milliseconds of one text alone; 0 if it cannot run here.
        speedup_vs_teacher_pytorch: texts/s against the PyTorch teacher (eager, fp32, padded to the longest of its
            batch, one thread, same texts, same run).
        cosine: mean cosine of its vectors to the student's fp32 graph.
        batch_invariance: largest difference of a vector's entries, alone against in a batch.
        refused: the gate that it failed and by how much; empty if it passed all so far.
        exception: the gate that it failed and that --allow-lossy excused.
        form: of the weights: "u8s8", "u8u8" or "u8s7" of a BERT in int8, "unfused" for TensorRT, else empty.
        gates: those that the graph went through, and before it the fused one of its student. If that one is wrong the
            graph was not made: its size, speed and fidelity are 0.
        texts_per_s_range: the lowest and the highest of the rounds that `texts_per_s_core` is the median of; None if it
            cannot run here, or an older export wrote it.
        speedup_range: the same of `speedup_vs_teacher_pytorch`.
    """

    name: str
    student: str
    precision: str
    device: str
    file: str
    layers: int
    hidden: int
    megabytes: float
    texts_per_s_core: float
    ms_batch1: float
    speedup_vs_teacher_pytorch: float
    cosine: float
    batch_invariance: float
    refused: str = ""
    exception: str = ""
    form: str = ""
    gates: tuple[Outcome, ...] = ()
    texts_per_s_range: tuple[float, float] | None = None
    speedup_range: tuple[float, float] | None = None


_RECORDS = TypeAdapter(list[Variant])


def save_variants(variants: Sequence[Variant], folder: Path) -> None:
    """Write `variants.json`."""
    (folder / VARIANTS).write_bytes(_RECORDS.dump_json(list(variants), indent=1))


def load_variants(folder: Path) -> list[Variant]:
    """Read what `save_variants` wrote, the refused ones among them."""
    return _RECORDS.validate_json((folder / VARIANTS).read_bytes())


def graphs(folder: Path) -> list[tuple[Variant, Path]]:
    """Every variant recorded in `folder` and its graph, which is there unless it was refused."""
    return [(variant, folder / variant.file) for variant in load_variants(folder)]
