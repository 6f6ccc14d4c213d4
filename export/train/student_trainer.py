"""Trains a student on the teacher's vectors (see `export.train.fit`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from swiftrec.export.models.encoder import TextEncoder
from swiftrec.export.models.static import StaticEncoder
from swiftrec.export.train.distillation_data import DistillationData
from swiftrec.export.train.optimisers import ParameterGroup, Schedule

_CORRUPTED_SHARE = 0.6  # of the texts of an epoch


@dataclass(frozen=True, slots=True)
class Course:
    """How long and how fast a student is trained; `table_rate` is the learning rate of its word embeddings."""

    epochs: int
    batch: int
    rate: float
    table_rate: float


class StudentTrainer:
    """Trains a student; its draws depend on the seed and the epoch alone, so it has no generator."""

    rng = None

    def __init__(self, student: TextEncoder | StaticEncoder, data: DistillationData, course: Course) -> None:
        self.module, self._data, self._course = student, data, course
        table = student.table if isinstance(student, StaticEncoder) else student.backbone.embeddings.word_embeddings
        table.sparse = True  # a batch reads few rows; rows that no training text reads keep their vectors
        rest = [p for p in student.parameters() if p is not table.weight]
        self.groups = [
            ParameterGroup(rest, course.rate, decay=0.01),
            ParameterGroup([table.weight], course.table_rate, is_sparse=True),
        ]

    @property
    def schedule(self) -> Schedule:
        """That of the course; the state is saved at the end alone, since an epoch takes seconds."""
        epochs, batches = self._course.epochs, self._data.steps(self._course.batch)
        return Schedule(epochs, batches, save_every=epochs, shows_batches=True)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Ids, mask and the teacher's vectors; a share of the texts is corrupted."""
        return self._data.batches(epoch, self._course.batch, _CORRUPTED_SHARE)

    def backward(self, batch: tuple[Tensor, Tensor, Tensor], share: float) -> float:
        """Add the gradient of the distillation loss."""
        ids, mask, targets = batch
        loss = self._data.loss(self.module(ids, mask), targets)
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def validate(self) -> None:
        """The last epoch's weights are kept."""


def corrupted_rows(data: DistillationData, epochs: int) -> Iterator[list[int]]:
    """The token ids of all texts that trainings of at most `epochs` read."""
    for epoch in range(epochs):
        yield from data.rows_of_epoch(epoch, _CORRUPTED_SHARE).values()
