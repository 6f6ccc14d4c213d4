"""Stage `distil`: a student with fewer layers that puts texts where the teacher puts them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from export.data.phrases import Texts
from export.stage import Job
from export.train.encoder import TextEncoder, load_tokenizer, load_trunk, pad
from export.train.teacher import Bank, Teacher, load_teacher

_BATCH = 64
_POOL = 8  # batches that are sorted by length together
_LEARNING_RATE = 5e-4
_SHARPNESS = 10.0  # of the softmax over the catalogue in which teacher and student are compared


def run(job: Job, out: Path) -> None:
    """Write student.safetensors and student.json."""
    torch.manual_seed(job.settings.seed)
    plan, data = job.settings.plan, job.folder("data")
    texts = Texts.load(data)
    teacher = load_teacher(job.folder("finetune"))
    bank = Bank.of(np.load(job.folder("finetune") / "pooled.npy", allow_pickle=False), texts)
    with torch.inference_mode():
        wanted = torch.cat([teacher.text_vectors(bank.variants).flatten(0, 1), teacher.text_vectors(bank.phrases)])
        items = teacher.text_vectors(bank.variants[0]) + teacher.residual
    layers = spread(load_trunk(data / "checkpoint").config.num_hidden_layers, plan.student_layers)
    student = _student(data / "checkpoint", layers, teacher)
    rows = load_tokenizer(data / "checkpoint", plan.max_tokens).encode(texts.all)
    _train(job, student, rows, wanted.clone(), items.clone())
    save_file({k: v.contiguous() for k, v in student.state_dict().items()}, out / "student.safetensors")
    (out / "student.json").write_text(json.dumps({"layers": layers, "dimensions": teacher.projection.out_features}))


def spread(have: int, keep: int) -> list[int]:
    """`keep` of `have` layers, first and last among them: 3 of 6 are 0, 2, 5."""
    keep = min(keep, have)
    return [0] if keep == 1 else [n * (have - 1) // (keep - 1) for n in range(keep)]


def load_student(job: Job) -> TextEncoder:
    """The student as PyTorch runs it."""
    shape = json.loads((job.folder("distil") / "student.json").read_text())
    student = TextEncoder(load_trunk(job.folder("data") / "checkpoint", shape["layers"]), shape["dimensions"])
    student.load_state_dict(load_file(job.folder("distil") / "student.safetensors"))
    return student.eval()


def _student(checkpoint: Path, layers: list[int], teacher: Teacher) -> TextEncoder:
    trunk = load_trunk(checkpoint, layers)
    student = TextEncoder(trunk, teacher.projection.out_features)
    student.projection.load_state_dict(teacher.projection.state_dict())
    # Word embeddings stay: words that no training text has keep the meaning that BERT gave them.
    trunk.embeddings.requires_grad_(requires_grad=False)
    return student.eval()  # no dropout: the target is a fixed function


def _batches(rows: list[list[int]], rng: np.random.Generator) -> list[list[int]]:
    """One epoch of batches of similar length, in random order."""
    order = rng.permutation(len(rows))
    batches: list[list[int]] = []
    for start in range(0, len(order), _BATCH * _POOL):
        pool = sorted(order[start : start + _BATCH * _POOL].tolist(), key=lambda n: len(rows[n]))
        batches += [pool[n : n + _BATCH] for n in range(0, len(pool), _BATCH)]
    return [batches[n] for n in rng.permutation(len(batches))]


def _train(job: Job, student: TextEncoder, rows: list[list[int]], wanted: Tensor, items: Tensor) -> None:
    rng, epochs = np.random.default_rng(job.settings.seed), job.settings.plan.distil_epochs
    total = epochs * len(_batches(rows, rng))
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, total_steps=total + 1, pct_start=0.1)
    with job.progress("distil", total) as step:
        for _ in range(epochs):
            for batch in _batches(rows, rng):
                vectors = student(*pad([rows[n] for n in batch]))
                loss = _loss(vectors, wanted[batch], items)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                step()


def _loss(vectors: Tensor, wanted: Tensor, items: Tensor) -> Tensor:
    """Cosine distance, and KL divergence of the similarities to the whole catalogue."""
    cosine = 1 - (vectors * wanted).sum(-1).mean()
    near = functional.log_softmax(_SHARPNESS * vectors @ items.T, dim=-1)
    target = functional.log_softmax(_SHARPNESS * wanted @ items.T, dim=-1)
    return 10 * cosine + functional.kl_div(near, target, reduction="batchmean", log_target=True)
