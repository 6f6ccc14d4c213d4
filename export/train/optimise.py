"""The optimiser, how its rates rise and fall, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from export.train.options import TrainingSettings
from export.train.teacher import Teacher

_TRUNK_DECAY = 0.01


def make_optimiser(settings: TrainingSettings, teacher: Teacher, moving: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    """Three groups with rates and decays of their own: the head, the items' residuals, BERT's weights that move."""
    head = [p for name, p in teacher.named_parameters() if name != "residual"]
    groups = [
        {"params": head, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [teacher.residual], "lr": settings.learning_rate, "weight_decay": 0.0},
    ]
    if moving:
        groups.append(
            {"params": list(moving.values()), "lr": settings.trunk_learning_rate, "weight_decay": _TRUNK_DECAY}
        )
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.AdamW(groups)


class Rate:
    """Linear warm-up, then half a cosine down to 0; each group keeps its own peak."""

    def __init__(self, optimiser: torch.optim.Optimizer, steps: int, warmup: float) -> None:
        self._optimiser, self._steps, self._warmup = optimiser, max(1, steps), max(1.0, warmup * steps)
        self._peaks = [group["lr"] for group in optimiser.param_groups]

    def share(self, step: int) -> float:
        """Share of the peak at `step` (from 0)."""
        if step + 1 < self._warmup:
            return (step + 1) / self._warmup
        done = (step - self._warmup) / max(1.0, self._steps - self._warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, done))))

    def set(self, step: int) -> None:
        """Set the rates for `step`."""
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.share(step)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory, flat: "<parameter>.<name>" -> tensor."""
    state = optimiser.state_dict()["state"]
    return {f"{n}.{name}": value for n, row in state.items() for name, value in row.items() if value is not None}


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimiser the memory that `optimiser_tensors` read."""
    whole = optimiser.state_dict()
    whole["state"] = {}
    for key, value in tensors.items():
        number, name = key.split(".")
        whole["state"].setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(whole)


class Average:
    """A running average of weights (Polyak and Juditsky, 1992); with decay 0 it is the weights."""

    def __init__(self, weights: dict[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Move towards the present weights."""
        for name, tensor in weights:
            self.weights[name].lerp_(tensor, 1 - self._decay)
