"""One teacher on its way: its modules, its optimiser, one epoch at a time, and what a stopped run must keep."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from export.data.phrases import Texts
from export.train.adversary import against_them
from export.train.bank import Encoded, MovingBank
from export.train.examples import steps_per_epoch
from export.train.guide import Guides
from export.train.loss import Batch, Step
from export.train.optimise import Descent, head_groups, trunk_groups
from export.train.options import TrainingSettings
from export.train.resume import Facts, cut, under
from export.train.teacher import Bank, Teacher
from export.train.validate import Validation, validate
from export.train.world import World


class Trainer:
    """Trains `teacher` and the layers of the bank's trunk that move."""

    def __init__(
        self,
        settings: TrainingSettings,
        world: World,
        bank: MovingBank,
        teacher: Teacher,
        epochs: int,
        seed: int,
        guides: Guides | None = None,
    ) -> None:
        self._settings, self._world, self._guides = settings, world, guides
        self.bank, self.trunk, self.teacher = bank, bank.trunk, teacher
        self._is_along = self.trunk.moves and settings.moves == "along"
        plain = bank.pooled[: world.items]  # the items' texts before anything has moved
        self.plain = plain.clone() if self._is_along else plain
        self._rng = np.random.default_rng(seed)
        batches = steps_per_epoch(world.split.train, self._max_history, settings.batch)
        moving, parameters = self._moving(), dict(teacher.named_parameters())
        groups = head_groups(settings, teacher) + trunk_groups(settings, moving)
        self._descent = Descent(
            settings, groups, under("teacher", parameters) | under("trunk", moving), epochs, batches
        )

    @property
    def step(self) -> int:
        """Steps of the optimiser so far."""
        return self._descent.step

    @property
    def ways(self) -> Texts:
        """The texts of the bank's rows."""
        return self._world.ways

    @property
    def _max_history(self) -> int:
        return self.teacher.max_length - 1  # one place is for the query

    def _moving(self) -> dict[str, Tensor]:
        named = self.trunk.named_parameters() if self._is_along else []
        return {name: p for name, p in named if p.requires_grad}

    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the modules."""
        self._descent.put(weights)

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now."""
        return self._descent.answer()

    def epoch(self) -> float:
        """One pass over the histories; the mean loss."""
        self.teacher.train()
        batches = self._world.epoch(self._max_history, self._settings.batch, self._rng)
        return self._descent.epoch(batches, self._learn)

    def _learn(self, batch: Batch) -> float:
        """Add the batch's gradient to that of the weights."""
        strength, encoded = self._settings.adversarial, None
        if self._is_along:
            with self._precision():
                encoded = self.bank.encode(batch.read, self._rng, to_words=strength > 0)
        rows = self.bank.pooled.detach().requires_grad_(encoded is not None or strength > 0)
        with torch.random.fork_rng(enabled=strength > 0):  # the second pass sees the same dropout and the same texts
            loss = self._backward(rows, batch)
        if encoded is not None:
            encoded.backward(_gradient(rows))
        if strength:
            self._learn_worse(rows, batch, encoded)
        return loss

    def _learn_worse(self, rows: Tensor, batch: Batch, encoded: Encoded | None) -> None:
        """The batch again, with the worst small change: of the words of what BERT has encoded, of the other vectors."""
        strength = self._settings.adversarial
        worse = against_them(rows.detach(), _gradient(rows), strength)
        if encoded is None:
            self._backward(worse, batch)
            return
        with self._precision():
            again = self.bank.worsen(encoded, strength)
        worse[again.texts] = again.vectors.detach().float()
        self._backward(worse.requires_grad_(), batch)
        again.backward(_gradient(worse))

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._settings.train_device, torch.bfloat16, enabled=self._settings.mixed_precision)

    def _backward(self, rows: Tensor, batch: Batch) -> float:
        settings = self._settings
        with self._precision():
            loss = Step(
                self.teacher, Bank.cut(rows, self._world.ways), batch, settings.loss, self._guides, settings.pull
            ).total()
        return self._descent.backward(loss)

    def validate(self) -> Validation:
        """NDCG@10 on the items that validate, with the weights of `answer`; every text is encoded again for it."""
        with self._descent.answering():
            self._refresh()
            bank = Bank.cut(self.bank.pooled, self._world.ways)
            return validate(self.teacher, bank, self._world.split, self._max_history)

    def finish(self) -> None:
        """Encode every text again, and end training."""
        self._refresh()
        self.teacher.eval()

    def _refresh(self) -> None:
        if self._is_along:
            self.bank.refresh()

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """What a stopped run needs."""
        tensors = self._descent.state() | {"random": torch.get_rng_state()}
        if self._is_along:  # else it is what the checkpoint says, gigabytes of it where the catalogue is large
            tensors |= under("bank", self.bank.tensors())
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        return tensors, {"step": self.step, "random": self._rng.bit_generator.state}

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` gave."""
        self._descent.restore(tensors, facts["step"])
        if self._is_along:
            self.bank.restore(cut(tensors, "bank"))
        torch.set_rng_state(tensors["random"].cpu())
        if "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"].cpu())
        self._rng.bit_generator.state = facts["random"]


def _gradient(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad
