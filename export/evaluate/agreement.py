"""Proof without interactions: each variant must put texts, and rank items for them, as the adopted teacher does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from export.data.dataset import Dataset
from export.data.phrases import Texts, unseen
from export.evaluate.assemble import assemble_agreement
from export.evaluate.metrics import Figure, best, common, figure
from export.evaluate.models import encode_here, served_rank, torch_encode
from export.evaluate.record import RECORD
from export.evaluate.subject import Vectors
from export.stage import Job
from export.train.encoder import teacher_checkpoint
from export.train.teacher import load_teacher
from export.variants import graphs
from server.models.ranker import Kind, UserSequence
from server.models.tokenizer import Tokenizer

_SAMPLE = 32  # texts whose answers the packaged bundle must repeat


def run(job: Job, out: Path) -> None:
    """Write quality.json, expected.json and vectors.npy, as `verify` does where there are interactions.

    Raises:
        GateError: no variant agrees with the teacher; no bundle is written.
    """
    asked = unseen(Texts.load(job.folder("data")), job.settings.seed)
    tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
    variants = graphs(job.folder("quantise"))
    alive = [(variant, path) for variant, path in variants if not variant.refused]
    with job.progress("compare with teacher", 1 + len(alive)) as step:
        wanted, items = _teacher(job, asked)
        step()
        vectors, kept, where = {}, {}, dict[str, str]()
        for variant, path in alive:
            if found := encode_here(path, tokenizer, variant.device):
                encode, where[variant.name] = found
                vectors[variant.name] = encode(asked)
                measured = kept[variant.name] = agreement(wanted, vectors[variant.name], items, job.settings.seed)
                words = ", ".join(f"{gate} {value}" for gate, value in measured.items())
                job.console.print(f"  {variant.name}: {words}", markup=False)
            step()
    quality = assemble_agreement(job, [variant for variant, _ in variants], kept, where, len(asked))
    np.save(out / "vectors.npy", items, allow_pickle=False)
    ids = [item.id for item in Dataset.load(job.folder("data")).items]
    rank = served_rank(job.folder("onnx") / quality.ranker, items.shape[1])
    served = vectors[quality.default["cpu"].name][:_SAMPLE]
    answers = rank([UserSequence([vector], [Kind.TEXT]) for vector in served]) @ items.T
    expected = [
        {"texts": [text], "seen": [], "top": [ids[n] for n in best(row)]}
        for text, row in zip(asked[:_SAMPLE], answers, strict=True)
    ]
    (out / "expected.json").write_text(json.dumps(expected))
    (out / RECORD).write_text(quality.model_dump_json(indent=1))


def agreement(teacher: Vectors, variant: Vectors, items: Vectors, seed: int) -> dict[str, Figure]:
    """How alike two recommenders are over some texts: "cosine" of their vectors, "overlap" of their ten best items.

    Args:
        teacher: unit vectors of the texts, [texts, d].
        variant: the same by a variant.
        items: item vectors, [items, d].
        seed: of the intervals.
    """
    pairs = ((teacher[n] @ items.T, variant[n] @ items.T) for n in range(len(teacher)))
    same = [common(best(a).tolist(), best(b).tolist()) for a, b in pairs]
    return {"cosine": figure((teacher * variant).sum(1).tolist(), seed), "overlap": figure(same, seed)}


def _teacher(job: Job, texts: list[str]) -> tuple[Vectors, Vectors]:
    """The adopted recommender in PyTorch: unit vectors of `texts` [texts, d] and item vectors [items, d]."""
    teacher = load_teacher(job.folder("finetune"))
    vectors = torch_encode(teacher_checkpoint(job), job.settings.plan.max_tokens, teacher)(texts)
    pooled = np.load(job.folder("finetune") / "pooled.npy", mmap_mode="r", allow_pickle=False)
    with torch.inference_mode():
        known = torch.from_numpy(np.array(pooled[: len(teacher.residual)]))
        items: Vectors = (teacher.text_vectors(known) + teacher.residual).numpy()
    return vectors, items
