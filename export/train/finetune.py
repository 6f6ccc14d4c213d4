"""Stage `finetune`: the teacher, and as much of BERT as is told to move with it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from export.data.dataset import Dataset
from export.data.phrases import Texts
from export.data.split import split
from export.data.vocabulary import read_tokenizer
from export.stage import Job
from export.train.absorb import Absorber
from export.train.adopt import adopt, is_adopted
from export.train.course import Course
from export.train.encoder import load_tokenizer, save_checkpoint
from export.train.guide import Guides
from export.train.record import Record
from export.train.resume import Resume
from export.train.teacher import Bank, Teacher, save_teacher
from export.train.trainer import Trainer
from export.train.trunk import MovingTrunk
from export.train.world import World, with_noise


def run(job: Job, out: Path) -> None:
    """Write checkpoint/ (the tuned BERT), pooled.npy, the teacher, curve.json and TensorBoard scalars.

    pooled.npy is float32 [texts, hidden]: the tuned BERT's vectors, rows of `Texts.all`.
    """
    if job.settings.most_pieces is not None:  # what the next stage could not do is said before minutes of training
        read_tokenizer(job.folder("data") / "checkpoint" / "tokenizer.json")
    if is_adopted(job):
        adopt(job, out)
        return
    settings, data = job.settings, job.folder("data")
    texts = Texts.load(data)
    ways = with_noise(texts, settings.augment, settings.seed)
    negatives = None if settings.loss == "softmax" else settings.negatives
    world = World(split(Dataset.load(data), settings.protocol), texts, ways, negatives)
    several = settings.teachers if settings.teachers > 1 else 0
    # As a mode it costs time in every call: only where it is needed.
    with torch.device(settings.train_device) if settings.train_device != "cpu" else contextlib.nullcontext():
        guides = [_guide(_teach(job, world, out, n + 1)) for n in range(several)]
        trainer = _teach(job, world, out, 0, Guides(guides) if guides else None)
        pooled = trainer.bank.pooled
        if trainer.trunk.moves and settings.moves == "after":
            pooled = _absorb(job, world, out, trainer)
        save_checkpoint(trainer.trunk.merged(), data / "checkpoint", out / "checkpoint")
        np.save(out / "pooled.npy", pooled[world.originals].cpu().numpy(), allow_pickle=False)
        save_teacher(trainer.teacher, out)
    shutil.rmtree(_resume_folder(job), ignore_errors=True)


def _guide(trainer: Trainer) -> tuple[Teacher, Tensor]:
    """A teacher that is trained, and its item vectors."""
    with torch.no_grad():
        own = trainer.teacher.text_vectors(Bank.cut(trainer.bank.pooled, trainer.ways).variants[0])
        return trainer.teacher, own + trainer.teacher.residual


def _resume_folder(job: Job) -> Path:
    return job.folder("finetune").with_name("finetune.resume")


def _teach(job: Job, world: World, out: Path, number: int, guides: Guides | None = None) -> Trainer:
    """Train a teacher to its end, from where it was stopped if it was; 0 is the one that is kept."""
    settings, plan = job.settings, job.settings.plan
    seed, epochs = settings.seed + number, settings.epochs or plan.finetune_epochs
    torch.manual_seed(seed)
    checkpoint = job.folder("data") / "checkpoint"
    rows = load_tokenizer(checkpoint, plan.max_tokens).encode(world.ways.all)
    trunk = MovingTrunk(checkpoint, rows, settings.trunk_layers, settings.lora)
    teacher = Teacher(
        trunk.width,
        plan.dimensions,
        world.items,
        plan.max_history + 1,  # one more place than events: the query comes behind a full history
        ranker=settings.ranker,
        dropout=settings.dropout,
    )
    trainer = Trainer(settings, world, trunk, teacher, epochs, seed, guides)
    with job.progress("fine-tune" if number == 0 else f"teacher {number}", epochs) as step:
        record = Record(out, f"curve-{number}" if number else "curve")
        Course(trainer, _resume(job, str(number)), record, settings.patience).to(epochs, step)
    return trainer


def _absorb(job: Job, world: World, out: Path, trainer: Trainer) -> Tensor:
    """Move BERT's layers towards the trained teacher's items; the texts' vectors then, [texts, hidden]."""
    settings = job.settings
    absorber = Absorber(settings, world, trainer.trunk, trainer.teacher, trainer.bank.pooled, settings.seed)
    with job.progress("move BERT", settings.passes) as step:
        Course(absorber, _resume(job, "trunk"), Record(out, "curve-trunk"), settings.patience).to(settings.passes, step)
    return absorber.pooled


def _resume(job: Job, name: str) -> Resume:
    return Resume(_resume_folder(job) / name, job.key(next(s for s in job.stages if s.name == "finetune")))
