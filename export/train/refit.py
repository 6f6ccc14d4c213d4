"""Trains the head again, on all events: for the served model, after another one was measured.

Projection and BERT stay the same, so that the students, which were distilled from the measured teacher, encode texts
for this one, too. Ranker and residuals start from scratch and see the events and items that the first training held out
for validation and test.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows
from swiftrec.export.job import Job
from swiftrec.export.models.backbone import Backbone
from swiftrec.export.models.encoder import load_tokenizer, teacher_checkpoint
from swiftrec.export.models.teacher import Teacher, load_teacher
from swiftrec.export.models.teacher_files import load_pooled, load_untuned
from swiftrec.export.train.cold_residuals import set_cold_residuals_again
from swiftrec.export.train.cold_start import ColdMap
from swiftrec.export.train.ensemble import TeacherEnsemble
from swiftrec.export.train.fit import fit, on_device
from swiftrec.export.train.trainer import TeacherTrainer
from swiftrec.export.train.training_data import TrainingData, augmented, negatives_of
from swiftrec.export.train.validation import index_training_users


@dataclass(frozen=True, slots=True)
class Refitted:
    """The teacher trained on all events, on the CPU.

    Args:
        teacher: its projection is that of the first training.
        items: item vectors, float32 [items, d].
        losses: mean training loss of each epoch.
    """

    teacher: Teacher
    items: Tensor
    losses: list[float]


def best_epoch(folder: Path) -> int:
    """The epoch (from 1) that the training whose `curve.json` is in `folder` kept; see `export.train.fit`."""
    rows = json.loads((folder / "curve.json").read_text())
    return int(max(rows, key=lambda row: (row["validation_ndcg"], row["epoch"]))["epoch"])


def train_on_all(job: Job, split: Split) -> Refitted:
    """Train the head of a finished stage `finetune` again, on the histories of `split`, for `best_epoch` epochs."""
    settings, folder = job.settings, job.folder("finetune")
    texts = Texts.load(job.folder("data"))
    copies = augmented(texts, settings.augment, settings.seed, settings.synonyms)
    data = TrainingData(split, texts, copies, negatives_of(settings, texts.rows.items))
    measured, pooled = load_teacher(folder), load_pooled(folder)
    with on_device(settings.train_device):
        encoded = _with_augmented(job, data, pooled).to(settings.train_device)
        train = partial(refit, job, data, measured, encoded, best_epoch(folder))
        seeds = range(settings.seed + 1, settings.seed + 1 + settings.teachers) if settings.teachers > 1 else ()
        trained = (train(seed=seed)[0] for seed in seeds)
        members = [(member, member.all_item_vectors(data.item_rows(encoded))) for member in trained]
        teacher, losses = train(seed=settings.seed, ensemble=TeacherEnsemble(members) if members else None)
        if cold_map := ColdMap.load(folder):
            untuned = load_untuned(folder, data.items).to(settings.train_device)
            histories = index_training_users(_all_cases(split), data.items).histories
            set_cold_residuals_again(teacher, data, untuned, encoded, histories, cold_map)
        items = teacher.all_item_vectors(data.item_rows(encoded)).cpu()
    teacher.has_sparse_gradients = False  # training has ended
    return Refitted(teacher.cpu().eval(), items, losses)


def refit(
    job: Job,
    data: TrainingData,
    measured: Teacher,
    pooled: Tensor,
    epochs: int,
    *,
    seed: int,
    ensemble: TeacherEnsemble | None = None,
) -> tuple[Teacher, list[float]]:
    """A teacher with the projection of `measured`, trained without validation; and the loss of each epoch.

    Args:
        job: its settings are those of the first training.
        data: histories and texts.
        measured: the teacher of the first training, which stays the same.
        pooled: pooled vectors of the rows of `data.augmented.all`, [texts, hidden].
        epochs: their number.
        seed: of weights and batches.
        ensemble: as in the first training.
    """
    torch.manual_seed(seed)
    hidden, dimensions = measured.projection.in_features, measured.projection.out_features
    dropout = job.settings.dropout
    teacher = Teacher(hidden, dimensions, data.items, measured.max_length, ranker=measured.kind, dropout=dropout)
    teacher.projection.load_state_dict(measured.projection.state_dict())
    teacher.projection.requires_grad_(requires_grad=False)
    trainer = TeacherTrainer(job.settings, data, pooled, teacher, seed, ensemble=ensemble, validates=False)
    bar = partial(job.progress, "train on all events")
    losses = fit(trainer, trainer.schedule(epochs), optimiser=job.settings.optimiser, bar=bar)
    trainer.finish()
    return teacher, losses


def _with_augmented(job: Job, data: TrainingData, pooled: Tensor) -> Tensor:
    """Pooled vectors of the rows of `data.augmented.all`: those of `--augment` are encoded, `pooled` are known."""
    known, first_phrase = data.texts.rows.variants, data.texts.rows.first_phrase
    copies: Sequence[str] = [text for variant in data.augmented.variants[known:] for text in variant]
    if not copies:
        return pooled
    checkpoint = teacher_checkpoint(job)
    rows = TokenRows(load_tokenizer(checkpoint, job.settings.plan.max_tokens), copies)
    backbone = Backbone(checkpoint, rows, 0)
    with job.progress("encode texts", backbone.batches) as step:
        return torch.cat([pooled[:first_phrase], backbone.encode_all(step).cpu(), pooled[first_phrase:]])


def _all_cases(split: Split) -> Cases:
    """A case for each history, without a target."""
    users = len(split.train)
    return Cases(np.arange(users), split.train, np.full(users, -1), split.repeats)
