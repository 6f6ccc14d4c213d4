"""Trains one teacher, an epoch at a time: its modules, its optimiser, and the state that a stopped run must keep."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.models.teacher import Bank, Teacher
from swiftrec.export.train.ensemble import Guides
from swiftrec.export.train.fgm import against_them
from swiftrec.export.train.losses import Batch, Step
from swiftrec.export.train.memory_bank import Encoded, MovingBank
from swiftrec.export.train.optimise import Descent, head_groups, trunk_groups
from swiftrec.export.train.options import TrainingSettings
from swiftrec.export.train.resume import Facts, cut, under
from swiftrec.export.train.samplers import steps_per_epoch
from swiftrec.export.train.training_data import World
from swiftrec.export.train.validation import Validation, validate


class Trainer:
    """Trains those of the parameters of `teacher` that require a gradient, and BERT's layers where they move along.

    Args:
        settings: rates, sizes, kinds of loss.
        world: what is read.
        pooled: pooled BERT vectors of the rows of `world.ways.all`, float32 [texts, hidden].
        teacher: the modules.
        epochs: the number of epochs over which the learning rate rises and falls.
        seed: of the order of batches and of what is drawn.
        guides: teachers whose answers are learned, too.
        moving: encodes texts anew in each step; None where their vectors stay as they are.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        world: World,
        pooled: Tensor,
        teacher: Teacher,
        epochs: int,
        seed: int,
        guides: Guides | None = None,
        moving: MovingBank | None = None,
    ) -> None:
        self._settings, self._world, self._guides = settings, world, guides
        self.pooled, self._bank, self.teacher = pooled, moving, teacher  # `moving` writes into the same tensor
        plain = pooled[: world.items]  # the items' texts before anything has moved
        self.plain = plain.clone() if moving else plain
        self._rng = np.random.default_rng(seed)
        batches = min(steps_per_epoch(world.split.train, self._max_history, settings.batch), world.epoch_batches)
        teacher.weight_residuals(torch.as_tensor(world.popularity))
        teacher.has_sparse_gradients = world.negatives is not None and settings.optimiser == "adamw"
        layers, parameters = self._layers(), dict(teacher.named_parameters())
        groups = head_groups(settings, teacher) + trunk_groups(settings, layers)
        self._descent = Descent(
            settings, groups, under("teacher", parameters) | under("trunk", layers), epochs, batches
        )

    @property
    def step(self) -> int:
        """Steps of the optimiser so far."""
        return self._descent.step

    @property
    def _max_history(self) -> int:
        return self.teacher.max_length - 1  # one place is for the query

    def _layers(self) -> dict[str, Tensor]:
        """BERT's parameters that move along."""
        named = [] if self._bank is None else self._bank.trunk.named_parameters()
        return {name: p for name, p in named if p.requires_grad}

    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the modules."""
        self._descent.put(weights)

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now."""
        return self._descent.answer()

    def epoch(self) -> float:
        """One pass over the histories, or over as many of them as an epoch may read; the mean loss."""
        self.teacher.train()
        batches = self._world.epoch(self._max_history, self._settings.batch, self._rng)
        return self._descent.epoch(batches, self._learn)

    def _learn(self, batch: Batch) -> float:
        """Add the batch's gradient to that of the weights."""
        strength, encoded = self._settings.adversarial, None
        if self._bank is not None:
            with self._precision():
                encoded = self._bank.encode(batch.read, self._rng, to_words=strength > 0)
        rows = self.pooled.detach().requires_grad_(encoded is not None or strength > 0)
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
        if self._bank is None or encoded is None:
            self._backward(worse, batch)
            return
        with self._precision():
            again = self._bank.worsen(encoded, strength)
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
            bank = Bank.cut(self.pooled, self._world.ways)
            return validate(self.teacher, bank, self._world.split, self._max_history)

    def finish(self) -> None:
        """Encode every text again, and end training."""
        self._refresh()
        self.teacher.apply_weights()
        self.teacher.eval()

    def _refresh(self) -> None:
        if self._bank is not None:
            self._bank.refresh()
            self.pooled = self._bank.pooled

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """What a stopped run needs."""
        tensors = self._descent.state() | {"random": torch.get_rng_state()}
        if self._bank is not None:  # else it is what the checkpoint says, gigabytes of it for a large catalogue
            tensors |= under("bank", self._bank.tensors())
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        return tensors, {"step": self.step, "random": self._rng.bit_generator.state}

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` gave."""
        self._descent.restore(tensors, facts["step"])
        if self._bank is not None:
            self._bank.restore(cut(tensors, "bank"))
            self.pooled = self._bank.pooled
        torch.set_rng_state(tensors["random"].cpu())
        if "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"].cpu())
        self._rng.bit_generator.state = facts["random"]


def _gradient(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad
