"""Trains the head of one teacher: projection, residuals and ranker, over text vectors that stay the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.train.ensemble import TeacherEnsemble
from swiftrec.export.train.fgm import fgm_step
from swiftrec.export.train.losses import Batch, BatchLoss
from swiftrec.export.train.optimisers import ParameterGroup, Schedule
from swiftrec.export.train.samplers import steps_per_epoch
from swiftrec.export.train.training_data import TrainingData
from swiftrec.export.train.validation import Validation, validate
from swiftrec.export.training_settings import TrainingSettings


class TeacherTrainer:
    """Trains those parameters of `teacher` that require a gradient (see `export.train.fit`).

    Args:
        settings: rates, sizes, kinds of loss.
        data: histories and texts.
        pooled: pooled BERT vectors of the rows of `data.augmented.all`, float32 [texts, hidden].
        teacher: the modules.
        seed: of the order of batches and of all draws.
        ensemble: teachers whose predictions are learned, too.
        validates: whether the best epoch is chosen by validation.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        data: TrainingData,
        pooled: Tensor,
        teacher: Teacher,
        seed: int,
        *,
        ensemble: TeacherEnsemble | None = None,
        validates: bool = True,
    ) -> None:
        self.module, self.pooled, self.rng = teacher, pooled, np.random.default_rng(seed)
        self._settings, self._data, self._ensemble, self._validates = settings, data, ensemble, validates
        teacher.weight_residuals(torch.as_tensor(data.popularity))
        teacher.has_sparse_gradients = data.negatives is not None and settings.optimiser == "adamw"
        head = [p for name, p in teacher.named_parameters() if name != "residual" and p.requires_grad]
        rate = settings.learning_rate
        self.groups = [
            ParameterGroup(head, rate, settings.weight_decay),
            ParameterGroup([teacher.residual], rate, is_sparse=teacher.has_sparse_gradients),
        ]

    def schedule(self, epochs: int, patience: int = 0) -> Schedule:
        """That of the settings, for `epochs` over the histories."""
        settings, length = self._settings, self._max_history
        batches = steps_per_epoch(self._data.split.train, length, settings.batch)
        limited = min(batches, self._data.epoch_batches)
        return Schedule(epochs, limited, settings.accumulate, settings.warmup, patience)

    @property
    def _max_history(self) -> int:
        return self.module.max_length - 1  # the last position is for the query

    def batches(self, epoch: int) -> Iterator[Batch]:  # noqa: ARG002 (drawn by `rng`)
        """One pass over the histories, or over a sample of them if they are very many."""
        self.module.train()
        return self._data.batches(self._max_history, self._settings.batch, self.rng)

    def backward(self, batch: Batch, share: float) -> float:
        """Add the gradient of the loss and, with `--adversarial`, of the loss under the worst perturbation."""
        strength = self._settings.adversarial
        rows = self.pooled.detach().requires_grad_(strength > 0)
        with torch.random.fork_rng(enabled=strength > 0):  # the second pass has the same dropout and the same texts
            loss = self._backward(rows, batch, share)
        if strength and rows.grad is not None:
            self._backward(rows.detach() + fgm_step(rows.detach(), rows.grad, strength), batch, share)
        return loss

    def _backward(self, rows: Tensor, batch: Batch, share: float) -> float:
        settings, features = self._settings, TextFeatures.of(rows, self._data.augmented)
        with torch.autocast(settings.train_device, torch.bfloat16, enabled=settings.mixed_precision):
            loss = BatchLoss(self.module, features, batch, settings.loss, self._ensemble).total()
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def validate(self) -> Validation | None:
        """NDCG@10 on the validation items."""
        if not self._validates:
            return None
        return validate(
            self.module, TextFeatures.of(self.pooled, self._data.augmented), self._data.split, self._max_history
        )

    def finish(self) -> None:
        """End training: the weights of the residuals become part of them."""
        self.module.apply_weights()
        self.module.eval()
