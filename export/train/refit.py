"""Trains the head once more, on all events: for the model that is served, after another one was measured.

The projection and BERT stay as they are, so that students which were distilled from the measured teacher encode texts
for this one, too. Ranker and residuals start from scratch and see what the first training kept back: the events that
validate and test, and the items that are cold there.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.data.token_store import TokenRows
from swiftrec.export.models.backbone import MovingTrunk
from swiftrec.export.models.encoder import load_tokenizer, teacher_checkpoint
from swiftrec.export.models.teacher import Teacher, load_teacher
from swiftrec.export.stages.finetune import guide_of, load_plain, place_untaken_again
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.cold_start import Choice
from swiftrec.export.train.ensemble import Guides
from swiftrec.export.train.trainer import Trainer
from swiftrec.export.train.training_data import World, negatives_of, with_noise
from swiftrec.export.train.validation import some_users


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
    """The epoch (from 1) that the training whose `curve.json` is in `folder` kept; see `export.train.epochs`."""
    rows = json.loads((folder / "curve.json").read_text())
    return int(max(rows, key=lambda row: (row["validation_ndcg"], row["epoch"]))["epoch"])


def train_on_all(job: Job, split: Split) -> Refitted:
    """Train the head of a finished stage `finetune` again, on the histories of `split`, for `best_epoch` epochs."""
    settings, folder = job.settings, job.folder("finetune")
    texts = Texts.load(job.folder("data"))
    ways = with_noise(texts, settings.augment, settings.seed, settings.synonyms)
    world = World(split, texts, ways, negatives_of(settings, texts.rows.items))
    own = torch.from_numpy(np.load(folder / "pooled.npy", mmap_mode="c", allow_pickle=False))  # PyTorch wants to write
    measured, epochs = load_teacher(folder), best_epoch(folder)
    several = settings.teachers if settings.teachers > 1 else 0
    device = settings.train_device
    with torch.device(device) if device != "cpu" else contextlib.nullcontext():
        pooled = _with_noisy(job, world, own).to(device)
        guides = [
            guide_of(refit(job, world, measured, pooled, epochs, seed=settings.seed + n + 1)[0], world, pooled)
            for n in range(several)
        ]
        trainer, losses = refit(job, world, measured, pooled, epochs, guides=Guides(guides) if guides else None)
        teacher = trainer.teacher
        plain = load_plain(folder, own, world.items).to(device)
        if choice := Choice.load(folder):
            place_untaken_again(teacher, world, plain, pooled, some_users(_whole(split), world.items).histories, choice)
        with torch.no_grad():
            items = teacher.item_vectors(teacher.text_vectors(pooled[: world.items])).cpu()
    teacher.has_sparse_gradients = False  # it is not trained any more
    return Refitted(teacher.cpu().eval(), items, losses)


def refit(
    job: Job,
    world: World,
    measured: Teacher,
    pooled: Tensor,
    epochs: int,
    *,
    seed: int | None = None,
    guides: Guides | None = None,
) -> tuple[Trainer, list[float]]:
    """A trainer whose teacher has the projection of `measured` and has finished training; the loss of each epoch.

    Args:
        job: its settings are those of the first training.
        world: what is read.
        measured: the teacher of the first training; it stays as it is.
        pooled: pooled vectors of the rows of `world.ways.all`, [texts, hidden].
        epochs: how many; there is no validation.
        seed: the settings' if not given.
        guides: as in the first training.
    """
    settings = job.settings
    seed = settings.seed if seed is None else seed
    torch.manual_seed(seed)
    hidden, dimensions = measured.projection.in_features, measured.projection.out_features
    teacher = Teacher(
        hidden, dimensions, world.items, measured.max_length, ranker=measured.kind, dropout=settings.dropout
    )
    teacher.projection.load_state_dict(measured.projection.state_dict())
    teacher.projection.requires_grad_(requires_grad=False)
    trainer, losses = Trainer(settings, world, pooled, teacher, epochs, seed, guides), []
    with job.progress("train on all events", epochs) as step:
        for _ in range(epochs):
            losses.append(trainer.epoch())
            step()
    trainer.put(trainer.answer())
    trainer.finish()
    return trainer, losses


def _with_noisy(job: Job, world: World, own: Tensor) -> Tensor:
    """Pooled vectors of the rows of `world.ways.all`: `own` are known, those of `--augment` are encoded here."""
    known, written = len(world.texts.variants), world.texts.rows.first_phrase
    noisy = [text for way in world.ways.variants[known:] for text in way]
    if not noisy:
        return own
    checkpoint = teacher_checkpoint(job)
    trunk = MovingTrunk(checkpoint, TokenRows(load_tokenizer(checkpoint, job.settings.plan.max_tokens), noisy), 0)
    with job.progress("encode texts", trunk.batches) as step:
        return torch.cat([own[:written], trunk.all(step).cpu(), own[written:]])


def _whole(split: Split) -> Cases:
    """Each history, behind which nothing is known to be wanted."""
    users = len(split.train)
    return Cases(np.arange(users), split.train, np.full(users, -1), split.repeats)
