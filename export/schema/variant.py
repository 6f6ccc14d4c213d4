"""`variants.json`, and the variants in `quality.json`: one encoder graph each, with what each stage measured of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, model_validator

from swiftrec.export.gates import Gate, is_task
from swiftrec.export.schema.record import MeanInterval, Record

VARIANTS = "variants.json"


class Variant(Record):
    """A student in one precision for one kind of device.

    Stage `quantise` makes the graph, measures its size and speed and judges it by `graph_gates`. Stage `verify` fills
    in everything from `retained` on.

    Args:
        name: "<student>-<precision>", as `--variant` of the server takes it: "bert3-int8", "static-fp32"; "bert3-trt"
            is the fp16 graph for TensorRT.
        student: name of the student: "bert3" (three layers of the teacher's width), "bert2x192", "static".
        precision: "fp32", "int8" or "fp16".
        device: "cpu", "cuda" or "tensorrt": the device that the graph was made for.
        file: the graph, in the same folder as this record.
        layers: transformer layers; 0 for the static student.
        hidden: width of the token vectors.
        form: of the weights: "u8s8", "u8u8" or "u8s7" of a BERT in int8, "unfused" for TensorRT, else empty.
        megabytes: size of the graph, 10^6 bytes.
        texts_per_s_core: one thread of this machine, sorted by length, best batch; 0 if it cannot run here.
        ms_batch1: median milliseconds of one text alone; 0 if it cannot run here.
        speedup_vs_teacher_pytorch: texts/s divided by those of the PyTorch teacher (eager, fp32, padded to the longest
            of its batch, one thread, same texts, same run).
        texts_per_s_range: the lowest and the highest of the rounds that `texts_per_s_core` is the median of; None if it
            cannot run here, or in the record of an older export.
        speedup_range: the same of `speedup_vs_teacher_pytorch`.
        cosine: mean cosine of its vectors to those of the student's fp32 graph.
        batch_invariance: largest difference of a vector's entries, alone and in a batch.
        graph_gates: the gates of the graph, and of the fused graph that it was made from. If that one failed, no graph
            was made and the measurements are 0.
        refused: the gates that it failed and that keep it out of the bundle; empty if none.
        exception: the gates that it failed and that --allow-lossy excused.
        retained: task -> NDCG@10 as a share of the teacher's, with the interval over the same cases.
        overlap: share of the teacher's top ten on text; None if it was not evaluated.
        agreement: "cosine" and "overlap" with the checkpoint as its own library runs it, if there are no interactions.
        gates: the quality gates: shares of the teacher's NDCG@10 (upper ends of the intervals), overlap, cosine.
        unmeasured: quality gates without a value, because the teacher's value is 0.
        measured_on: the device that computed the answers: the CPU for a GPU's variant if there was no GPU.
        shipped: whether it is in the bundle.
        on_front: whether it is on the Pareto front of its device in speed, quality and size.
    """

    name: str
    student: str
    precision: str
    device: str
    file: str
    layers: int
    hidden: int
    form: str = ""
    megabytes: float = 0.0
    texts_per_s_core: float = 0.0
    ms_batch1: float = 0.0
    speedup_vs_teacher_pytorch: float = 0.0
    texts_per_s_range: tuple[float, float] | None = None
    speedup_range: tuple[float, float] | None = None
    cosine: float = 0.0
    batch_invariance: float = 0.0
    graph_gates: tuple[Gate, ...] = ()
    refused: str = ""
    exception: str = ""
    retained: dict[str, MeanInterval] = {}
    overlap: float | None = None
    agreement: dict[str, MeanInterval] = {}
    gates: tuple[Gate, ...] = ()
    unmeasured: tuple[str, ...] = ()
    measured_on: str = ""
    shipped: bool = False
    on_front: bool = False

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, row: Any) -> Any:  # noqa: ANN401 (not validated yet)
        """Read the records of older exports, which kept the graph's fields in a record inside the variant's."""
        if not isinstance(row, dict) or "variant" not in row:
            return row
        graph, failed = row["variant"], row.get("refused", "")
        excused = "; ".join(filter(None, (failed * bool(row["shipped"]), graph.get("exception", ""))))
        flat = {**graph, "graph_gates": graph.get("gates", ()), **row}
        flat |= {"exception": excused, "refused": "" if row["shipped"] else failed}
        del flat["variant"]
        return flat

    @property
    def is_timed(self) -> bool:
        """Whether its speed was measured."""
        return self.texts_per_s_core > 0

    @property
    def quality(self) -> float:
        """Mean share of the teacher's NDCG@10 over the tasks of its gates; without them the overlap."""
        shares = [gate.value for gate in self.gates if is_task(gate.gate)] or [self.overlap or 0.0]
        return sum(shares) / len(shares)

    @property
    def failed(self) -> str:
        """Every gate that it failed, excused or not; empty if none."""
        return "; ".join(filter(None, (self.refused, self.exception)))

    @property
    def remark(self) -> str:
        """What was not measured, or not on the device that it is for; empty if everything was."""
        parts = []
        if self.unmeasured:
            parts = [
                f"not measured, since the teacher finds no target among its ten best: {', '.join(self.unmeasured)}"
            ]
        if self.measured_on not in ("", self.device):
            parts.append(f"quality measured on {self.measured_on}")
        if self.shipped and not self.is_timed:
            parts.append(f"speed on {self.device} not measured")
        return "; ".join(parts)

    @property
    def state(self) -> str:
        """Whether a variant that failed a gate is in the bundle, in words."""
        return "shipped all the same (--allow-lossy)" if self.shipped else "not shipped"


_VARIANTS = TypeAdapter(list[Variant])


def save_variants(variants: Sequence[Variant], folder: Path) -> None:
    """Write `variants.json`."""
    (folder / VARIANTS).write_bytes(_VARIANTS.dump_json(list(variants), indent=1))


def load_variants(folder: Path) -> list[Variant]:
    """Read what `save_variants` wrote, refused variants included."""
    return _VARIANTS.validate_json((folder / VARIANTS).read_bytes())


def load_graphs(folder: Path) -> list[tuple[Variant, Path]]:
    """Every variant recorded in `folder` with its graph, which exists unless the variant was refused."""
    return [(variant, folder / variant.file) for variant in load_variants(folder)]
