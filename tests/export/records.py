"""A small record of an export and its manifest, for the tests of the reports."""

from __future__ import annotations

from swiftrec.export.schema.comparison import OtherProtocol
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.schema.variant import Variant

OTHER = OtherProtocol(protocol="", cases=0, ndcg={}, remark="Agreement with the checkpoint.")
TASK_NAMES = ("ids", "text", "query", "noisy", "cold")


def figures(mean: float) -> dict[str, MeanInterval]:
    return {task: MeanInterval(mean, mean - 0.01, mean + 0.01) for task in TASK_NAMES}


def variant(name: str, speed: float) -> Variant:
    student, _, precision = name.rpartition("-")
    return Variant(
        name=name,
        student=student,
        precision=precision,
        device="cpu",
        file=f"encoder.{name}.onnx",
        layers=3,
        hidden=384,
        megabytes=53.2,
        texts_per_s_core=speed,
        ms_batch1=1.1,
        speedup_vs_teacher_pytorch=8.5,
        cosine=0.9998,
        batch_invariance=1e-7,
    )
