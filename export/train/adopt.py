"""A recommender that comes in trained becomes the teacher as it is: what stage `finetune` writes, without training.

A classifier's score of item i is W_i p + b_i. With [p, 1] as a text's vector and [W_i, b_i] as the item's it is their
product, and scaling [p, 1] to length 1 changes no ranking: so it serves as any other teacher does. A bi-encoder's item
vector is its text's.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.data.dataset import Dataset
from export.data.head import Head
from export.data.phrases import Texts
from export.stage import Job
from export.train.encoder import TextEncoder, by_length, load_tokenizer, load_trunk, pad
from export.train.teacher import Teacher, save_teacher

_BATCH = 64


def is_adopted(job: Job) -> bool:
    """Whether the checkpoint of this job is a recommender that is taken as it is."""
    return Head.load(job.folder("data") / "checkpoint") is not None


def adopt(job: Job, out: Path) -> None:
    """Write checkpoint/, pooled.npy (float32 [texts, width], rows of `Texts.all`) and the teacher."""
    data, plan = job.folder("data"), job.settings.plan
    head = Head.load(data / "checkpoint")
    if head is None:
        raise ValueError("a plain encoder cannot be adopted: it is fine-tuned")
    shutil.copytree(data / "checkpoint", out / "checkpoint")
    pooled = _pool(job, Texts.load(data).all)
    items = [item.id for item in Dataset.load(data).items]
    teacher = Teacher(pooled.shape[1], pooled.shape[1], len(items), plan.max_history + 1, ranker="mean", dropout=0.0)
    with torch.no_grad():
        teacher.projection.weight.copy_(torch.eye(pooled.shape[1]))
        texts = teacher.text_vectors(pooled[: len(items)])
        teacher.residual.copy_(_item_vectors(head, items, pooled[: len(items)], texts) - texts)
    np.save(out / "pooled.npy", pooled.numpy(), allow_pickle=False)
    save_teacher(teacher, out)


def _item_vectors(head: Head, items: list[str], pooled: Tensor, texts: Tensor) -> Tensor:
    """What a text's unit vector is compared with, [items, width]."""
    if head.rows is not None:
        return head.rows_of(items)
    return pooled if head.shape.similarity == "dot" else texts


def _pool(job: Job, texts: list[str]) -> Tensor:
    folder = job.folder("data") / "checkpoint"
    encoder = TextEncoder(load_trunk(folder), 1).eval()
    rows = load_tokenizer(folder, job.settings.plan.max_tokens).encode(texts)
    batches = by_length(rows, _BATCH)
    pooled = torch.zeros(len(rows), encoder.projection.in_features)
    with job.progress("encode texts", len(batches)) as step, torch.inference_mode():
        for batch in batches:
            pooled[batch] = encoder.pool(*pad([rows[n] for n in batch]))
            step()
    return pooled
