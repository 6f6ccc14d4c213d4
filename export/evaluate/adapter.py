"""Variants, also from the older `candidates.json`: goes when every export writes `variants.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.stage import Job
from export.variants import VARIANTS, Variant, load_variants


def found(job: Job) -> list[tuple[Variant, Path]]:
    """Every variant that stage `quantise` made or refused, and its graph (which is there unless it was refused)."""
    folder = job.folder("quantise")
    if (folder / VARIANTS).exists():
        return [(variant, folder / variant.file) for variant in load_variants(folder)]
    record = json.loads((folder / "candidates.json").read_text())
    student = json.loads((job.folder("distil") / "student.json").read_text())
    pairs = []
    for row in record["candidates"]:
        is_plain = row["name"] == "fp32"
        chosen = is_plain or row["name"] == record["int8"]
        variant = _variant(
            row, len(student["layers"]), "" if chosen else row["reason"] or "another int8 form is faster"
        )
        path = job.folder("onnx") / "encoder.fp32.onnx" if is_plain else folder / "encoder.int8.onnx"
        pairs.append((variant, path))
    return pairs


def _variant(row: dict[str, Any], layers: int, refused: str) -> Variant:
    precision = row["name"] if refused else row["precision"]
    name = f"bert{layers}-{precision}"
    return Variant(
        name=name,
        student=f"bert{layers}",
        precision=row["precision"],
        device="cpu",
        file=f"encoder.{name}.onnx",
        layers=layers,
        hidden=384,
        megabytes=row["megabytes"],
        texts_per_s_core=row["texts_per_s"],
        ms_batch1=row["ms_batch1"],
        speedup_vs_teacher_pytorch=0.0,
        cosine=row["cosine"],
        batch_invariance=row["invariance"],
        refused=refused,
    )
