"""One teacher on its way: its modules, its optimiser, one epoch at a time, and what a stopped run must keep."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.data.phrases import Texts
from export.train.bank import MovingBank
from export.train.examples import steps_per_epoch, windows
from export.train.guide import Guides
from export.train.loss import Batch, Step
from export.train.optimise import Average, Rate, make_optimiser, optimiser_tensors, restore_optimiser
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
        self._optimiser = make_optimiser(settings, teacher, self._moving())
        batches = steps_per_epoch(world.split.train, self._max_history, settings.batch)
        self._rate = Rate(self._optimiser, epochs * -(-batches // settings.accumulate), settings.warmup)
        self._average = Average(self.weights(), settings.ema) if settings.ema else None
        self.step = 0

    @property
    def ways(self) -> Texts:
        """The texts of the bank's rows."""
        return self._world.ways

    @property
    def _max_history(self) -> int:
        return self.teacher.max_length - 1  # one place is for the query

    def weights(self) -> dict[str, Tensor]:
        """Everything that is trained."""
        return under("teacher", dict(self.teacher.named_parameters())) | under("trunk", self._moving())

    def _moving(self) -> dict[str, Tensor]:
        named = self.trunk.named_parameters() if self._is_along else []
        return {name: p for name, p in named if p.requires_grad}

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the modules."""
        for name, parameter in self.weights().items():
            parameter.copy_(weights[name])

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now."""
        return {n: t.detach().clone() for n, t in (self._average.weights if self._average else self.weights()).items()}

    def epoch(self) -> float:
        """One pass over the histories; the mean loss."""
        self.teacher.train()
        losses, waiting = [], 0
        for batch in self._batches():
            losses.append(self._learn(batch))
            waiting += 1
            if waiting == self._settings.accumulate:
                self._move()
                waiting = 0
        if waiting:
            self._move()
        return float(np.mean(losses))

    def _batches(self) -> Iterator[Batch]:
        size, split = self._settings.batch, self._world.split
        for window in windows(split.train, self._max_history, size, self._rng, split.worth):
            yield self._world.batch(window, size, self._rng)

    def _learn(self, batch: Batch) -> float:
        """Add the batch's gradient to that of the weights."""
        strength, moves = self._settings.adversarial, self._is_along
        if moves:
            with self._precision():
                encoded = self.bank.encode(batch.read, self._rng)
        rows = self.bank.pooled.detach().requires_grad_(moves or strength > 0)
        with torch.random.fork_rng(enabled=strength > 0):  # the second pass sees the same dropout and the same texts
            loss = self._backward(rows, batch)
        gradient = _gradient(rows)
        if strength:
            worse = against_them(rows.detach(), gradient, strength).requires_grad_(moves)
            self._backward(worse, batch)
            gradient = gradient + _gradient(worse)
        if moves:
            encoded.backward(gradient)
        return loss

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._settings.train_device, torch.bfloat16, enabled=self._settings.mixed_precision)

    def _backward(self, rows: Tensor, batch: Batch) -> float:
        settings = self._settings
        with self._precision():
            loss = Step(
                self.teacher, Bank.cut(rows, self._world.ways), batch, settings.loss, self._guides, settings.pull
            ).total()
        (loss / settings.accumulate).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _move(self) -> None:
        self._rate.set(self.step)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if self._average is not None:
            self._average.update(self.weights().items())
        self.step += 1

    def validate(self) -> Validation:
        """NDCG@10 on the items that validate, with the weights of `answer`; every text is encoded again for it."""
        present = {n: t.detach().clone() for n, t in self.weights().items()}
        self.put(self.answer())
        self._refresh()
        found = validate(
            self.teacher, Bank.cut(self.bank.pooled, self._world.ways), self._world.split, self._max_history
        )
        self.put(present)
        return found

    def finish(self) -> None:
        """Encode every text again, and end training."""
        self._refresh()
        self.teacher.eval()

    def _refresh(self) -> None:
        if self._is_along:
            self.bank.refresh()

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """What a stopped run needs."""
        tensors = under("weights", self.weights()) | under("optimiser", optimiser_tensors(self._optimiser))
        tensors["random"] = torch.get_rng_state()
        if self._is_along:  # else it is what the checkpoint says, gigabytes of it where the catalogue is large
            tensors |= under("bank", self.bank.tensors())
        if self._average is not None:
            tensors |= under("average", self._average.weights)
        if torch.cuda.is_available():
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        return tensors, {"step": self.step, "random": self._rng.bit_generator.state}

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` gave."""
        self.put(cut(tensors, "weights"))
        if self._is_along:
            self.bank.restore(cut(tensors, "bank"))
        restore_optimiser(self._optimiser, cut(tensors, "optimiser"))
        if self._average is not None:
            device = self.bank.pooled.device
            self._average.weights = {name: t.to(device) for name, t in cut(tensors, "average").items()}
        torch.set_rng_state(tensors["random"].cpu())
        if "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"].cpu())
        self.step = facts["step"]
        self._rng.bit_generator.state = facts["random"]


def _gradient(rows: Tensor) -> Tensor:
    return torch.zeros_like(rows) if rows.grad is None else rows.grad


def against_them(rows: Tensor, gradient: Tensor, strength: float) -> Tensor:
    """Each row moved uphill by `strength` times its length (FGM: Miyato et al., ICLR 2017)."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    moved: Tensor = rows + strength * length * functional.normalize(gradient, dim=1)
    return moved
