"""A small ranker that answers as the teacher's does: trained on the user vectors that the teacher's ranker gives.

It reads what the teacher's ranker read in training (histories of items and texts, queries behind and without one), and
starts from those of its weights that it has, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import Split
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.errors import ExportError
from swiftrec.export.models.rankers import SMALL, make_small
from swiftrec.export.models.teacher import Bank, Teacher, load_teacher
from swiftrec.export.stages.runner import Job
from swiftrec.export.train.losses import Seen, Step
from swiftrec.export.train.pretrained import is_adopted, parts_of, ranker_of
from swiftrec.export.train.samplers import steps_per_epoch
from swiftrec.export.train.training_data import MAX_STEP_BYTES, World, negatives_of, step_bytes

_WEIGHTS, _SHAPE = "ranker.safetensors", "ranker.json"
_BATCH, _RATE = 32, 2e-3


@dataclass(frozen=True, slots=True)
class _Lesson:
    """What both rankers read, batch by batch."""

    world: World
    bank: Bank
    teacher: Teacher

    @property
    def length(self) -> int:
        """Events of a window; one place is for the query."""
        return self.teacher.max_length - 1

    def steps(self) -> int:
        """An upper bound of the batches in an epoch."""
        return min(steps_per_epoch(self.world.split.train, self.length, _BATCH), self.world.epoch_batches)

    def epoch(self, rng: np.random.Generator) -> Iterator[Step]:
        """Every history once, with as many queries."""
        for batch in self.world.epoch(self.length, _BATCH, rng):
            yield Step(self.teacher, self.bank, batch, "softmax")


def check(job: Job) -> None:
    """Say before anything is trained what `run` could not do.

    Raises:
        ExportError: an adopted recommender has no interactions here, or a ranker without a small form.
    """
    data = job.folder("data")
    if not is_adopted(job):
        _check_kind(job.settings.ranker)
        return
    _check_kind(ranker_of(data / "checkpoint"))
    if not Dataset.load(data).histories:
        raise ExportError("--small-ranker learns from interactions, and there are none: leave it at 'never'")


def _check_kind(kind: str) -> None:
    if kind not in SMALL:
        have = " or ".join(SMALL)
        raise ExportError(f"--small-ranker: there is none of {kind}: leave it at 'never', or train a {have}")


def run(job: Job, out: Path) -> None:
    """Write ranker.safetensors and ranker.json.

    Raises:
        ExportError: the teacher's ranker has no small form.
    """
    teacher = load_teacher(job.folder("finetune"))
    _check_kind(teacher.kind)
    small, losses = distil_ranker(job, teacher, parts_of(job, Dataset.load(job.folder("data"))))
    save_file({name: tensor.contiguous() for name, tensor in small.state_dict().items()}, out / _WEIGHTS)
    shape = {"kind": teacher.kind, "dimensions": teacher.projection.out_features, "max_length": teacher.max_length}
    (out / _SHAPE).write_text(json.dumps({"shape": shape, "losses": losses}, indent=1))


def distil_ranker(job: Job, teacher: Teacher, split: Split) -> tuple[nn.Module, list[float]]:
    """A small ranker trained on the answers of the teacher's to the histories of `split`; the loss of each epoch."""
    torch.manual_seed(job.settings.seed)
    small, lesson = _start(teacher), _lesson(job, teacher, split)
    return small, list(_train(job, small, lesson))


def load_small(folder: Path) -> nn.Module | None:
    """Read what `run` wrote; None where no small ranker was trained."""
    if not (folder / _SHAPE).exists():
        return None
    small = make_small(**json.loads((folder / _SHAPE).read_text())["shape"])
    small.load_state_dict(load_file(folder / _WEIGHTS))
    return small.eval()


def _lesson(job: Job, teacher: Teacher, split: Split) -> _Lesson:
    texts, settings = Texts.load(job.folder("data")), job.settings
    world = World(split, texts, texts, _negatives(settings, texts.rows.items))
    pooled = np.load(job.folder("finetune") / "pooled.npy", mmap_mode="c", allow_pickle=False)  # PyTorch wants to write
    bank = Bank.of(pooled, texts)
    return _Lesson(world, bank, teacher.requires_grad_(requires_grad=False))


def _negatives(settings: ExportSettings, items: int) -> int | None:
    """How many items a batch draws: as the teacher does, but a catalogue too large for this batch is sampled."""
    own = settings.model_copy(update={"batch": _BATCH, "teachers": 1})
    return settings.negatives if step_bytes(own, items, None) > MAX_STEP_BYTES else negatives_of(own, items)


def _start(teacher: Teacher) -> nn.Module:
    """With the teacher's weights where both have them in the same shape; no dropout: the target is fixed."""
    small = make_small(teacher.kind, teacher.projection.out_features, teacher.max_length)
    own, theirs = small.state_dict(), teacher.ranker.state_dict()
    shared = {name: theirs[name] for name in own if name in theirs and theirs[name].shape == own[name].shape}
    small.load_state_dict(own | shared)
    return small.eval()


def _train(job: Job, small: nn.Module, lesson: _Lesson) -> Iterator[float]:
    """Train; yields the mean loss of each epoch."""
    epochs, rng = job.settings.plan.distil_epochs, np.random.default_rng(job.settings.seed)
    total = epochs * lesson.steps()
    optimiser = torch.optim.AdamW(small.parameters(), lr=_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total + 1, pct_start=0.1, cycle_momentum=False)
    with job.progress("distil ranker", total) as step:
        for _ in range(epochs):
            losses = []
            for read in lesson.epoch(rng):
                loss = sum(
                    (_apart(lesson.teacher, small, seen, read.items) for seen in read.all_seen()), torch.zeros(())
                )
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
                losses.append(loss.item())
                step()
            yield sum(losses) / len(losses)


def _apart(teacher: Teacher, small: nn.Module, seen: Seen, items: Tensor) -> Tensor:
    """KL divergence of the answers, and squared distance of the user vectors as a share of their squared length."""
    there = seen.mask > 0
    with torch.no_grad():
        wanted = teacher.ranker(*seen)[there]
    users = small(*seen)[there]
    near, target = ((vectors @ items.T).log_softmax(-1) for vectors in (users, wanted))
    kl = functional.kl_div(near, target, reduction="batchmean", log_target=True)
    far: Tensor = kl + (users - wanted).square().sum(-1).mean() / wanted.square().sum(-1).mean()
    return far
