"""Trains the head once more, on all events: for the model that is served, after another one was tested.

The projection and BERT stay as they are, so that students which were distilled from the tested teacher encode texts for
this one, too. Ranker and residuals start anew and see what the first training kept back: the events that validate and
test, and the items that are cold there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.data.split import Cases, Split
from export.stage import Job
from export.train.finetune import place_untaken
from export.train.teacher import Teacher
from export.train.trainer import Trainer
from export.train.validate import some_users
from export.train.world import World


def best_epoch(folder: Path) -> int:
    """The epoch (from 1) that the training whose `curve.json` lies in `folder` kept; see `export.train.epochs`."""
    rows = json.loads((folder / "curve.json").read_text())
    return int(max(rows, key=lambda row: (row["validation_ndcg"], row["epoch"]))["epoch"])


def refit(job: Job, world: World, tested: Teacher, plain: Tensor, pooled: Tensor, epochs: int) -> Teacher:
    """A teacher with the projection of `tested`, trained without validation on the histories of `world`.

    Args:
        job: its settings are those of the first training.
        world: what is read, e.g. with the split `export.data.split.everything`.
        tested: the teacher of the first training; it stays as it is.
        plain: pooled vectors of the items' texts before BERT moved, [items, hidden].
        pooled: pooled vectors of the rows of `world.ways.all`, [texts, hidden].
        epochs: how many; `best_epoch` of the first training.
    """
    settings = job.settings
    torch.manual_seed(settings.seed)
    hidden, dimensions = tested.projection.in_features, tested.projection.out_features
    teacher = Teacher(hidden, dimensions, world.items, tested.max_length, ranker=tested.kind, dropout=settings.dropout)
    teacher.projection.load_state_dict(tested.projection.state_dict())
    teacher.projection.requires_grad_(requires_grad=False)
    trainer = Trainer(settings, world, pooled, teacher, epochs, settings.seed)
    with job.progress("train on all events", epochs) as step:
        for _ in range(epochs):
            trainer.epoch()
            step()
    trainer.put(trainer.answer())
    trainer.finish()
    place_untaken(teacher, world, plain, pooled, some_users(_last(world.split), world.items), settings.seed)
    return teacher


def _last(split: Split) -> Cases:
    """Each history without its last event, which is wanted; no figure comes from these cases."""
    return Cases(
        np.arange(len(split.train)),
        [history[:-1] for history in split.train],
        np.array([history[-1] for history in split.train], dtype=np.int64),
        split.repeats,
    )
