"""How weights move: the optimiser, its rates as they rise and fall, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.models.teacher import Teacher
from swiftrec.export.train.options import TrainingSettings
from swiftrec.export.train.resume import cut, under

Group = dict[str, Any]  # parameters with a rate and a decay of their own, as PyTorch's optimisers take them
SPARSE = "sparse"  # key of a group whose gradients have rows for some items only
BatchT = TypeVar("BatchT")


def head_groups(settings: TrainingSettings, teacher: Teacher) -> list[Group]:
    """What of the head requires a gradient, and the items' residuals, which do not decay."""
    head = [p for name, p in teacher.named_parameters() if name != "residual" and p.requires_grad]
    is_sparse = teacher.has_sparse_gradients
    return [
        {"params": head, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [teacher.residual], "lr": settings.learning_rate, "weight_decay": 0.0, SPARSE: is_sparse},
    ]


def trunk_groups(settings: TrainingSettings, moving: Mapping[str, Tensor]) -> list[Group]:
    """BERT's weights that move; no group if none does."""
    params = list(moving.values())
    rate, decay = settings.trunk_learning_rate, settings.trunk_weight_decay
    return [{"params": params, "lr": rate, "weight_decay": decay}] if params else []


def _optimisers(settings: TrainingSettings, groups: list[Group]) -> list[torch.optim.Optimizer]:
    """One optimiser for the groups with dense gradients, and one for those with sparse gradients if there are any.

    The second updates only the items that a step looks at: writing the residuals and moments of a whole large catalogue
    would take most of the step.
    """
    dense = [group for group in groups if not group.get(SPARSE)]
    sparse = [{"params": group["params"], "lr": group["lr"]} for group in groups if group.get(SPARSE)]
    plain = [{key: value for key, value in group.items() if key != SPARSE} for group in dense]
    if settings.optimiser == "sgd":
        return [torch.optim.SGD(plain, momentum=0.9)]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(plain)]
    return [*found, torch.optim.SparseAdam(sparse)] if sparse else found


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
    values = ((f"{n}.{name}", value) for n, row in state.items() for name, value in row.items())
    return {key: torch.as_tensor(value) for key, value in values if value is not None}  # SparseAdam counts steps as int


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

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self.weights = _copy(weights)

    @torch.no_grad()
    def update(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Move towards the present weights."""
        for name, tensor in weights:
            self.weights[name].lerp_(tensor, 1 - self._decay)


class Descent:
    """Weights on their way down: a step of the optimiser for every `accumulate` batches, and the running average."""

    def __init__(
        self, settings: TrainingSettings, groups: list[Group], weights: Mapping[str, Tensor], epochs: int, batches: int
    ) -> None:
        """`weights` are those of `groups` by name; `batches` are in each of the `epochs`."""
        self.weights, self.step, self._accumulate = weights, 0, settings.accumulate
        steps = epochs * -(-batches // settings.accumulate)
        self._optimisers = _optimisers(settings, groups)
        self._rates = [Rate(optimiser, steps, settings.warmup) for optimiser in self._optimisers]
        self._average = Average(weights, settings.ema) if settings.ema else None

    def epoch(self, batches: Iterable[BatchT], learn: Callable[[BatchT], float]) -> float:
        """Move by the gradients that `learn` leaves of each batch; the mean of the losses that it returns."""
        losses: list[float] = []
        for batch in batches:
            losses.append(learn(batch))
            if len(losses) % self._accumulate == 0:
                self._move()
        if len(losses) % self._accumulate:
            self._move()
        return float(np.mean(losses))

    def backward(self, loss: Tensor) -> float:
        """Add the gradient of a batch's loss, as its share of a step; the loss."""
        (loss / self._accumulate).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _move(self) -> None:
        for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
            rate.set(self.step)
            optimiser.step()
            optimiser.zero_grad()
        if self._average is not None:
            self._average.update(self.weights.items())
        self.step += 1

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now: the average, if there is one."""
        return _copy(self._average.weights if self._average else self.weights)

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the modules."""
        for name, parameter in self.weights.items():
            parameter.copy_(weights[name])

    @contextmanager
    def answering(self) -> Iterator[None]:
        """The modules have the weights of `answer`; afterwards those that learn, again."""
        present = _copy(self.weights)
        self.put(self.answer())
        yield
        self.put(present)

    def state(self) -> dict[str, Tensor]:
        """What a stopped run needs, beside `step`."""
        average = self._average.weights if self._average else {}
        found = under("weights", self.weights) | under("average", average)
        for number, optimiser in enumerate(self._optimisers):
            found |= under(f"optimiser.{number}", optimiser_tensors(optimiser))
        return found

    def restore(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from what `state` gave after `step` steps."""
        self.put(cut(tensors, "weights"))
        for number, optimiser in enumerate(self._optimisers):
            restore_optimiser(optimiser, cut(tensors, f"optimiser.{number}"))
        if self._average is not None:
            kept = cut(tensors, "average")
            self._average.weights = {name: kept[name].to(weight.device) for name, weight in self.weights.items()}
        self.step = step


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
