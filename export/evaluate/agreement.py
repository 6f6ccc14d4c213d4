"""Proof without interactions: each variant must put texts, and rank items for them, as the adopted teacher does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.data.dataset import Dataset
from export.data.phrases import Texts, unseen
from export.errors import GateError
from export.evaluate.metrics import TOP, Figure, figure, top
from export.stage import Job
from export.train.encoder import TextEncoder, load_tokenizer, load_trunk, pad
from export.train.teacher import load_teacher
from server.models.encoder import EncoderModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

Vectors = NDArray[np.float32]

MIN_COSINE = 0.95  # mean, of a variant's vectors to the teacher's
_BATCH = 32
_SAMPLE = 32  # texts whose answers the packaged bundle must repeat


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two recommenders are over some texts: cosine of the vectors, share of the same ten items."""

    cosine: Figure
    overlap: Figure

    def failures(self, min_overlap: float) -> list[str]:
        """The gates that it fails, each with its value and its threshold."""
        failed = []
        if self.cosine.mean < MIN_COSINE:
            failed.append(f"cosine to the teacher {self.cosine.mean:.3f}, at least {MIN_COSINE}")
        if self.overlap.mean < min_overlap:
            failed.append(f"top-10 overlap {self.overlap.mean:.3f}, at least {min_overlap} (--min-overlap)")
        return failed


def agreement(teacher: Vectors, variant: Vectors, items: Vectors, seed: int) -> Agreement:
    """Of unit vectors [texts, d] of the same texts, ranking item vectors [items, d]."""
    nothing = np.empty(0, np.int64)
    wanted, got = teacher @ items.T, variant @ items.T
    size = min(TOP, len(items))
    same = [len({*top(a, nothing)} & {*top(b, nothing)}) / size for a, b in zip(wanted, got, strict=True)]
    return Agreement(figure((teacher * variant).sum(1), seed), figure(same, seed))


def run(job: Job, out: Path) -> None:
    """Write quality.json, expected.json and vectors.npy, as `verify` does where there are interactions.

    Raises:
        GateError: the fp32 variant does not agree with the teacher; no bundle is written.
    """
    texts, folder = Texts.load(job.folder("data")), job.folder("quantise")
    asked = unseen(texts, job.settings.seed)
    wanted, items = _teacher(job, asked)
    paths = {"fp32": job.folder("onnx") / "encoder.fp32.onnx"}
    if (folder / "encoder.int8.onnx").exists():
        paths["int8"] = folder / "encoder.int8.onnx"
    found = {name: _served(job, path, asked) for name, path in paths.items()}
    results = {name: agreement(wanted, vectors, items, job.settings.seed) for name, vectors in found.items()}
    failed = {name: result.failures(job.settings.min_overlap) for name, result in results.items()}
    for name, result in results.items():
        job.console.print(f"  {name}: cosine {result.cosine}, top-10 overlap {result.overlap}", markup=False)
    if failed["fp32"]:
        raise GateError("; ".join(failed["fp32"]) + ": no bundle is written")
    passed = [name for name in paths if not failed[name]]
    np.save(out / "vectors.npy", items, allow_pickle=False)
    ids = [item.id for item in Dataset.load(job.folder("data")).items]
    (out / "expected.json").write_text(json.dumps(_expected(asked, found[passed[-1]] @ items.T, ids)))
    (out / "quality.json").write_text(json.dumps(_quality(job, results, passed, len(asked)), indent=1))


def _quality(job: Job, results: dict[str, Agreement], passed: list[str], texts: int) -> dict[str, Any]:
    return {
        "protocol": f"no interactions: agreement with the adopted teacher on {texts} texts that no student was taught, "
        "95 % bootstrap intervals",
        "agreement": {name: asdict(result) for name, result in results.items()},
        "top10_overlap": {name: result.overlap.mean for name, result in results.items()},
        "tasks": {},
        "speed": json.loads((job.folder("quantise") / "candidates.json").read_text()),
        "passed": passed,
    }


def _teacher(job: Job, texts: list[str]) -> tuple[Vectors, Vectors]:
    """The adopted recommender in PyTorch: unit vectors of `texts` [texts, d] and item vectors [items, d]."""
    folder, teacher = job.folder("finetune"), load_teacher(job.folder("finetune"))
    encoder = TextEncoder(load_trunk(folder / "checkpoint"), teacher.projection.out_features).eval()
    encoder.projection.load_state_dict(teacher.projection.state_dict())
    rows = load_tokenizer(folder / "checkpoint", job.settings.plan.max_tokens).encode(texts)
    pooled = torch.from_numpy(np.load(folder / "pooled.npy", allow_pickle=False))
    with torch.inference_mode():
        vectors = torch.cat([encoder(*pad(rows[n : n + _BATCH])) for n in range(0, len(rows), _BATCH)])
        items = teacher.text_vectors(pooled[: len(teacher.residual)]) + teacher.residual
    return vectors.numpy(), items.numpy()


def _served(job: Job, path: Path, texts: list[str]) -> Vectors:
    """A variant's vectors [texts, d] as the server makes them."""
    tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
    model, rows = EncoderModel(open_session(path)), tokenizer.encode(texts)
    return np.array([v for n in range(0, len(rows), _BATCH) for v in model.run(rows[n : n + _BATCH])])


def _expected(texts: list[str], scores: Vectors, ids: list[str]) -> list[dict[str, list[str]]]:
    """What the packaged bundle must answer to some of the texts."""
    nothing = np.empty(0, np.int64)
    rows = zip(texts[:_SAMPLE], scores[:_SAMPLE], strict=True)
    return [{"texts": [text], "seen": [], "top": [ids[n] for n in top(row, nothing)]} for text, row in rows]
