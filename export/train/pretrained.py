"""A checkpoint that is a trained recommender becomes the teacher without training.

A classifier's score of item i is W_i p + b_i. With [p, 1] as a text's vector and [W_i, b_i] as the item's it is their
product, and scaling [p, 1] to length 1 changes no ranking: so it is used like any other teacher. The item vector of a
bi-encoder is the vector of its text. From the teacher of an earlier export the ranker is taken, but not the residuals,
since the items may be different now.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from swiftrec.export.checkpoints.formats import OWN
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import COLD_SHARE, Split, split
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.data.token_store import TokenRows
from swiftrec.export.errors import CheckpointError
from swiftrec.export.job import Job
from swiftrec.export.models.backbone import Backbone
from swiftrec.export.models.encoder import load_tokenizer
from swiftrec.export.models.teacher import Teacher, load_teacher, save_teacher
from swiftrec.export.models.teacher_files import save_item_vectors, save_pooled


def is_pretrained(job: Job) -> bool:
    """Whether the checkpoint of this job is a trained recommender, which is not fine-tuned."""
    return Head.load(job.folder("data") / "checkpoint") is not None


def split_of(job: Job, dataset: Dataset) -> Split:
    """Training, validation and test data; no item is cold for a pretrained recommender.

    Raises:
        DataError: too few users have histories that are long enough.
    """
    share = 0.0 if is_pretrained(job) else COLD_SHARE
    return split(dataset, job.settings.protocol, cold_share=share, repeats=job.settings.repeats)


def take_pretrained(job: Job, output: Path) -> None:
    """Write checkpoint/, the teacher and its arrays (`export.models.teacher_files`)."""
    data, plan = job.folder("data"), job.settings.plan
    head = Head.load(data / "checkpoint")
    if head is None:
        raise ValueError("the checkpoint is an encoder without a recommender: fine-tune it")
    shutil.copytree(data / "checkpoint", output / "checkpoint")
    texts = Texts.load(data)
    rows = TokenRows(load_tokenizer(data / "checkpoint", plan.max_tokens), texts.all)
    backbone = Backbone(data / "checkpoint", rows, 0)
    with job.progress("encode texts", backbone.batches) as step:
        pooled = backbone.encode_all(step)
    full, items = pooled[texts.rows.of(TextVariant.FULL)], [item.id for item in Dataset.load(data).items]
    teacher = _teacher(data / "checkpoint", pooled.shape[1], len(items), plan.max_history + 1)
    with torch.no_grad():
        teacher.projection.weight.copy_(torch.eye(pooled.shape[1]))
        vectors = teacher.text_vectors(full)
        teacher.residual.copy_(_item_vectors(head, items, full, vectors) - vectors)
    save_pooled(pooled, output)
    save_item_vectors(teacher.all_item_vectors(full), output)
    save_teacher(teacher, output)


def _teacher(checkpoint: Path, width: int, items: int, length: int) -> Teacher:
    """With the ranker of an earlier export's teacher, or with one that averages.

    Raises:
        CheckpointError: that ranker was trained for shorter histories.
    """
    if not (checkpoint / OWN[0]).exists():
        return Teacher(width, width, items, length, ranker="mean", dropout=0.0)
    trained = load_teacher(checkpoint)
    if trained.max_length < length:
        lengths = f"its ranker reads {trained.max_length - 1} events, {length - 1} are needed"
        raise CheckpointError(f"{checkpoint}: {lengths}: use the preset that it was trained with")
    teacher = Teacher(width, width, items, trained.max_length, ranker=trained.kind, dropout=0.0)
    teacher.ranker.load_state_dict(trained.ranker.state_dict())
    return teacher


def _item_vectors(head: Head, items: list[str], pooled: Tensor, texts: Tensor) -> Tensor:
    """The vectors with which a text's unit vector is compared, [items, width]."""
    if head.rows is not None:
        return head.rows_of(items)
    return pooled if head.shape.similarity == "dot" else texts
