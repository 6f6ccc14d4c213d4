"""Optimisers and the schedule of their learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with their peak learning rate and weight decay.

    Gradients of a sparse group have rows for few entries; its optimiser updates these rows alone, without decay.
    """

    parameters: Sequence[Tensor]
    rate: float
    decay: float = 0.0
    is_sparse: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long to train, and how the learning rate changes: it rises to its peak and falls to nearly 0.

    Args:
        epochs: passes over the training data.
        batches: of an epoch, at most.
        accumulate: batches for one step of the optimiser.
        warmup: share of the steps in which the rate rises.
        patience: stop after this many epochs without a better validation; 0: never.
        save_every: epochs between two states of an interrupted run; the last epoch is always saved.
        shows_batches: whether the progress bar counts batches, not epochs.
    """

    epochs: int
    batches: int
    accumulate: int = 1
    warmup: float = 0.1
    patience: int = 0
    save_every: int = 1
    shows_batches: bool = False

    @property
    def steps(self) -> int:
        """Steps of the optimiser in all epochs."""
        return self.epochs * -(-self.batches // self.accumulate)


def make_optimisers(groups: list[ParameterGroup], kind: Literal["adamw", "sgd"]) -> list[torch.optim.Optimizer]:
    """One optimiser for all dense groups, and SparseAdam for the sparse ones; either only if it has parameters."""
    dense, sparse = (
        [
            {"params": group.parameters, "lr": group.rate} | ({} if is_sparse else {"weight_decay": group.decay})
            for group in groups
            if group.parameters and group.is_sparse == is_sparse
        ]
        for is_sparse in (False, True)
    )
    optimisers: list[torch.optim.Optimizer] = []
    if dense:
        optimisers.append(
            torch.optim.AdamW(dense, fused=True) if kind == "adamw" else torch.optim.SGD(dense, momentum=0.9)
        )
    return [*optimisers, torch.optim.SparseAdam(sparse)] if sparse else optimisers


def one_cycle(optimiser: torch.optim.Optimizer, schedule: Schedule) -> OneCycleLR:
    """The schedule of the rates, whose peaks are those of the optimiser's groups."""
    peaks, steps, warmup = [group["lr"] for group in optimiser.param_groups], schedule.steps + 1, float(schedule.warmup)
    if warmup * steps == 1:  # PyTorch divides by 0 if the rate rises in exactly one step
        steps += 1
    return OneCycleLR(optimiser, peaks, total_steps=steps, pct_start=warmup, cycle_momentum=False)
