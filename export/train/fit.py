"""The training loop of everything that is trained: optimisers, schedule, validation, early stopping and resuming.

`fit` trains a `Trainable` epoch by epoch. If it validates, the weights of the epoch with the best validation NDCG@10
are kept, and training can stop early. The state is saved between epochs, so that an interrupted run continues with the
same result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from swiftrec.export.checkpoints.weights import StateDict
from swiftrec.export.train.curve import Curve, EpochRow
from swiftrec.export.train.optimisers import ParameterGroup, Schedule, make_optimisers, one_cycle
from swiftrec.export.train.validation import Validation

BatchT = TypeVar("BatchT")
State = dict[str, Any]
ProgressBar = Callable[[int], AbstractContextManager[Callable[[], None]]]
"""Opens a progress bar with this number of steps; the context's function is called once for each."""


class Trainable(Protocol[BatchT]):
    """What `fit` can train."""

    @property
    def module(self) -> nn.Module:
        """The trained parameters are those of it that require a gradient."""

    @property
    def groups(self) -> list[ParameterGroup]:
        """The trained parameters with their rates."""

    @property
    def rng(self) -> np.random.Generator | None:
        """The generator of all random choices; None if they depend on the epoch alone."""

    def batches(self, epoch: int) -> Iterable[BatchT]:
        """The batches of an epoch, counted from 0."""

    def backward(self, batch: BatchT, share: float) -> float:
        """Add the gradient of the batch's loss, multiplied by `share`; return the loss."""

    def validate(self) -> Validation | None:
        """Measure the present weights; None if the last epoch's weights are kept anyway."""


@dataclass(slots=True)
class Resume:
    """A file that keeps the state of an interrupted training; `key` identifies its settings, code and data."""

    path: Path
    key: str

    def save(self, state: State) -> None:
        """Replace the saved state."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".writing")
        torch.save({"key": self.key, "state": state}, scratch)
        scratch.replace(self.path)

    def load(self) -> State | None:
        """The saved state; None if there is none, or if it is damaged or belongs to another key."""
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            state: State | None = saved["state"] if saved["key"] == self.key else None
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, UnpicklingError):
            return None
        return state


def fit(
    trainable: Trainable[BatchT],
    schedule: Schedule,
    *,
    optimiser: Literal["adamw", "sgd"] = "adamw",
    bar: ProgressBar = lambda _total: nullcontext(lambda: None),
    resume: Resume | None = None,
    curve: Curve | None = None,
) -> list[float]:
    """Train; the module has the weights of the epoch that validated best afterwards, the last one of equals.

    Args:
        trainable: what is trained.
        schedule: epochs and learning rate.
        optimiser: of the groups with dense gradients.
        bar: opened unless the saved state is that of a finished training.
        resume: where an interrupted run continues.
        curve: receives a row for each epoch that is validated.

    Returns:
        The mean loss of each epoch.
    """
    run = _Run(trainable, schedule, make_optimisers(trainable.groups, optimiser), curve)
    if resume is not None:
        run.continue_from(resume)
    if not run.is_done:
        with bar(schedule.epochs * run.bar_steps) as step:
            for _ in range(run.epoch * run.bar_steps):
                step()
            while not run.is_done:
                run.train_epoch(step)
                if resume is not None and (run.is_done or run.epoch % schedule.save_every == 0):
                    resume.save(run.state())
                if not schedule.shows_batches:
                    step()
    if run.best_weights is not None:
        put_weights(trainable.module, run.best_weights)
    return run.losses


def on_device(device: str) -> AbstractContextManager[object]:
    """New tensors are created on `device`. On the CPU this is no mode of PyTorch, which would slow down every call."""
    return torch.device(device) if device != "cpu" else nullcontext()


def copy_weights(module: nn.Module) -> StateDict:
    """A copy of the parameters that are trained, by name."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into the parameters of these names."""
    parameters = dict(module.named_parameters())
    for name, tensor in weights.items():
        parameters[name].copy_(tensor)


@dataclass
class _Run:
    """The state of one training."""

    trainable: Trainable[Any]
    schedule: Schedule
    optimisers: list[torch.optim.Optimizer]
    curve: Curve | None
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: EpochRow | None = None
    best_weights: StateDict | None = None

    def __post_init__(self) -> None:
        self.rates = [one_cycle(optimiser, self.schedule) for optimiser in self.optimisers]

    @property
    def epoch(self) -> int:
        """Epochs so far."""
        return len(self.losses)

    @property
    def bar_steps(self) -> int:
        """Steps of the progress bar in an epoch."""
        return self.schedule.batches if self.schedule.shows_batches else 1

    @property
    def is_done(self) -> bool:
        """Whether all epochs have run, or enough of them without a better validation."""
        is_stale = self.best is not None and self.epoch - self.best.epoch >= self.schedule.patience > 0
        return is_stale or self.epoch >= self.schedule.epochs

    def train_epoch(self, step: Callable[[], None]) -> None:
        """Train on all batches of an epoch, then validate."""
        losses: list[float] = []
        for batch in self.trainable.batches(self.epoch):
            losses.append(self.trainable.backward(batch, 1 / self.schedule.accumulate))
            if len(losses) % self.schedule.accumulate == 0:
                self._update()
            if self.schedule.shows_batches:
                step()
        if len(losses) % self.schedule.accumulate:
            self._update()
        self.losses.append(float(np.mean(losses)))
        validation = self.trainable.validate()
        if validation is not None:
            self._judge(validation)

    def _update(self) -> None:
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            optimiser.step()
            optimiser.zero_grad()
            rate.step()
        self.step += 1

    def _judge(self, validation: Validation) -> None:
        """Add a row to the curve and keep the weights if no epoch before was better."""
        row = EpochRow(self.step, self.epoch, self.losses[-1], validation.mean, validation.ids, validation.text)
        if self.curve is not None:
            self.curve.add(row)
        if self.best is None or row.validation_ndcg >= self.best.validation_ndcg:
            self.best_weights = copy_weights(self.trainable.module)
        if self.best is None or row.validation_ndcg > self.best.validation_ndcg:
            self.best = row

    def state(self) -> State:
        """What an interrupted run needs; that of a finished one has no optimisers and no generators."""
        state: State = {
            "step": self.step,
            "losses": self.losses,
            "best": asdict(self.best) if self.best else None,
            "best_weights": self.best_weights,
            "rows": [asdict(row) for row in self.curve.rows] if self.curve else [],
            "weights": copy_weights(self.trainable.module),
        }
        if self.is_done:
            return state
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        state["rates"] = [rate.state_dict() for rate in self.rates]
        state["random"] = torch.get_rng_state()
        state["random_cuda"] = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        state["rng"] = self.trainable.rng.bit_generator.state if self.trainable.rng else None
        return state

    def continue_from(self, resume: Resume) -> None:
        """Restore the saved state, if there is one."""
        state = resume.load()
        if state is None:
            return
        self.step, self.losses, self.best_weights = state["step"], state["losses"], state["best_weights"]
        self.best = EpochRow(**state["best"]) if state["best"] else None
        put_weights(self.trainable.module, state["weights"])
        if self.curve is not None:
            for row in state["rows"]:
                self.curve.add(EpochRow(**row))
        if self.is_done:
            return
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        for rate, saved in zip(self.rates, state["rates"], strict=True):
            rate.load_state_dict(saved)
        torch.set_rng_state(state["random"])
        if state["random_cuda"] is not None:
            torch.cuda.set_rng_state(state["random_cuda"])
        if self.trainable.rng is not None:
            self.trainable.rng.bit_generator.state = state["rng"]
