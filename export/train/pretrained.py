"""A recommender that comes in trained becomes the teacher as it is: what stage `finetune` writes, without training.

A classifier's score of item i is W_i p + b_i. With [p, 1] as a text's vector and [W_i, b_i] as the item's it is their
product, and scaling [p, 1] to length 1 changes no ranking: so it serves as any other teacher does. A bi-encoder's item
vector is its text's. A teacher of an earlier export brings its ranker; what it had learned of single items beyond
their texts is left behind, since the items may be others now.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.checkpoints.formats import OWN
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import COLD_SHARE, Split, split
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.backbone import MovingTrunk
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.export.models.teacher import Teacher, load_teacher, save_teacher
from swiftrec.export.stages.runner import Job


def is_adopted(job: Job) -> bool:
    """Whether the checkpoint of this job is a recommender that is taken as it is."""
    return Head.load(job.folder("data") / "checkpoint") is not None


def parts_of(job: Job, dataset: Dataset) -> Split:
    """What trains and what tests; nothing was kept from a recommender that came in trained.

    Raises:
        DataError: too few users have histories that are long enough.
    """
    share = 0.0 if is_adopted(job) else COLD_SHARE
    return split(dataset, job.settings.protocol, cold_share=share, repeats=job.settings.repeats)


def ranker_of(checkpoint: Path) -> str:
    """The kind of the ranker that an adopted recommender comes with: a teacher's own, or one that averages."""
    own = checkpoint / OWN[0]
    return str(json.loads(own.read_text())["ranker"]) if own.exists() else "mean"


def adopt(job: Job, out: Path) -> None:
    """Write checkpoint/, pooled.npy (float32 [texts, width], rows of `Texts.all`) and the teacher."""
    data, plan = job.folder("data"), job.settings.plan
    head = Head.load(data / "checkpoint")
    if head is None:
        raise ValueError("a plain encoder cannot be adopted: it is fine-tuned")
    shutil.copytree(data / "checkpoint", out / "checkpoint")
    trunk = MovingTrunk(
        data / "checkpoint", TokenRows(load_tokenizer(data / "checkpoint", plan.max_tokens), Texts.load(data).all), 0
    )
    with job.progress("encode texts", trunk.batches) as step:
        pooled = trunk.all(step)
    items = [item.id for item in Dataset.load(data).items]
    teacher = _teacher(data / "checkpoint", pooled.shape[1], len(items), plan.max_history + 1)
    with torch.no_grad():
        teacher.projection.weight.copy_(torch.eye(pooled.shape[1]))
        texts = teacher.text_vectors(pooled[: len(items)])
        teacher.residual.copy_(_item_vectors(head, items, pooled[: len(items)], texts) - texts)
    np.save(out / "pooled.npy", pooled.numpy(), allow_pickle=False)
    save_teacher(teacher, out)


def _teacher(checkpoint: Path, width: int, items: int, length: int) -> Teacher:
    """With the ranker of a teacher of ours, or with one that averages.

    Raises:
        CheckpointError: our teacher's ranker was trained for shorter histories.
    """
    if not (checkpoint / OWN[0]).exists():
        return Teacher(width, width, items, length, ranker="mean", dropout=0.0)
    own = load_teacher(checkpoint)
    if own.max_length < length:
        taken = f"its ranker takes {own.max_length - 1} events, {length - 1} are needed"
        raise CheckpointError(f"{checkpoint}: {taken}: use the preset that it was trained with")
    teacher = Teacher(width, width, items, own.max_length, ranker=own.kind, dropout=0.0)
    teacher.ranker.load_state_dict(own.ranker.state_dict())
    return teacher


def _item_vectors(head: Head, items: list[str], pooled: Tensor, texts: Tensor) -> Tensor:
    """What a text's unit vector is compared with, [items, width]."""
    if head.rows is not None:
        return head.rows_of(items)
    return pooled if head.shape.similarity == "dot" else texts
