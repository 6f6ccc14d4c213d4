"""The loop over epochs: train, validate, save, keep the best, stop early, and go on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

from torch import Tensor

from swiftrec.export.train.curve import Curve, Row
from swiftrec.export.train.resume import Facts, Resume, cut, under
from swiftrec.export.train.validation import Validation


class Learner(Protocol):
    """What can be trained epoch by epoch: `Trainer` and `Absorber`."""

    @property
    def step(self) -> int:
        """Steps of the optimiser so far."""

    def epoch(self) -> float:
        """Train one epoch; the mean loss."""

    def validate(self) -> Validation:
        """NDCG@10 on the items that validate."""

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now."""

    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the modules."""

    def finish(self) -> None:
        """Make everything that follows from the weights follow from them."""

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """What a stopped run needs."""

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` gave."""


@dataclass
class Epochs:
    """Trains a learner and leaves the weights of the epoch with the best validation NDCG@10 in it, the last of equals.

    `patience` is the number of epochs without a better one after which training stops; 0 means never.
    """

    learner: Learner
    resume: Resume
    curve: Curve
    patience: int
    epoch: int = 0
    best: Row | None = None
    kept: dict[str, Tensor] | None = None

    def to(self, epochs: int, step: Callable[[], None]) -> None:
        """Train up to `epochs`, then put the best epoch's weights into the modules, with all that follows from them."""
        self._go_on()
        for _ in range(self.epoch):
            step()
        while self.epoch < epochs and not self._is_enough():
            self._once()
            step()
        if self.kept is not None:
            self.learner.put(self.kept)
        self.learner.finish()
        self.curve.close()

    def _once(self) -> None:
        loss = self.learner.epoch()
        found = self.learner.validate()
        self.epoch += 1
        row = Row(self.learner.step, self.epoch, loss, found.mean, found.ids, found.text)
        self.curve.add(row)
        if self.best is None or row.validation_ndcg >= self.best.validation_ndcg:  # of equal ones the longest trained
            self.kept = self.learner.answer()
        if self.best is None or row.validation_ndcg > self.best.validation_ndcg:
            self.best = row
        self._save()

    def _is_enough(self) -> bool:
        return self.patience > 0 and self.best is not None and self.epoch - self.best.epoch >= self.patience

    def _save(self) -> None:
        tensors, facts = self.learner.state()
        rows = [asdict(row) for row in self.curve.rows]
        facts |= {"epoch": self.epoch, "rows": rows, "best": asdict(self.best) if self.best else None}
        self.resume.save(tensors | under("kept", self.kept or {}), facts)

    def _go_on(self) -> None:
        if (saved := self.resume.load()) is None:
            return
        tensors, facts = saved
        self.learner.restore(tensors, facts)
        self.epoch, self.kept = facts["epoch"], cut(tensors, "kept") or None
        self.best = Row(**facts["best"]) if facts["best"] else None
        for row in facts["rows"]:
            self.curve.add(Row(**row))
