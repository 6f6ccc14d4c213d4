"""Residuals of items without interactions, such that their vectors are those of `export.train.cold_start`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swiftrec.export.arrays import Histories
from swiftrec.export.data.split import Cases
from swiftrec.export.models.teacher import Teacher
from swiftrec.export.train.cold_start import (
    ColdMap,
    ColdVectors,
    TextVectors,
    ValidationUsers,
    can_map,
    map_cold_items,
    map_cold_items_again,
)
from swiftrec.export.train.training_data import TrainingData
from swiftrec.export.train.validation import users_of
from swiftrec.server.arrays import Positions, Vectors
from swiftrec.server.models.networks import EventKind


@torch.no_grad()
def set_cold_residuals(
    teacher: Teacher, data: TrainingData, untuned: Tensor, pooled: Tensor, cases: Cases, seed: int
) -> ColdVectors | None:
    """Map all items as if they had no interactions, and set the residuals of those that have none.

    Args:
        teacher: whose residuals are changed.
        data: what it was trained on.
        untuned: pooled vectors of the items' texts before BERT was tuned, [items, hidden].
        pooled: pooled vectors of all texts now, [texts, hidden].
        cases: validation users and their targets.
        seed: of the folds.

    Returns:
        The mapped vectors; None if the data has too few items with interactions.
    """
    has_events = data.has_events.cpu().numpy()
    if not can_map(has_events):
        return None
    texts, items, vectors = _vectors(teacher, data, pooled, cases.histories)
    users = ValidationUsers(vectors, cases.masked, cases.targets)
    mapped = map_cold_items(_unit_vectors(untuned), items, has_events, users, seed)
    if mapped is not None:
        _set_residuals(teacher, data, texts, mapped.vectors[~has_events])
    return mapped


@torch.no_grad()
def set_cold_residuals_again(
    teacher: Teacher, data: TrainingData, untuned: Tensor, pooled: Tensor, histories: Histories, cold_map: ColdMap
) -> None:
    """The same for a teacher that was trained again, with the map that was chosen for the first one.

    Args:
        teacher: whose residuals are changed.
        data: what it was trained on.
        untuned: see `set_cold_residuals`.
        pooled: see `set_cold_residuals`.
        histories: of users.
        cold_map: chosen in the first training.
    """
    texts, items, users = _vectors(teacher, data, pooled, histories)
    has_events = data.has_events.cpu().numpy()
    _set_residuals(
        teacher, data, texts, map_cold_items_again(_unit_vectors(untuned), items, has_events, users, cold_map)
    )


def _vectors(
    teacher: Teacher, data: TrainingData, pooled: Tensor, histories: Histories
) -> tuple[Tensor, Vectors, Vectors]:
    """Vectors of the items' texts and of the items, each [items, d], and of the users of histories, [users, d]."""
    texts = teacher.text_vectors(data.item_rows(pooled))
    items = teacher.item_vectors(texts)
    users = torch.cat([*users_of(teacher, items, EventKind.ITEM, histories, teacher.max_length - 1)])
    return texts, items.cpu().numpy(), users.cpu().numpy()


def _unit_vectors(pooled: Tensor) -> TextVectors:
    """Returns unit vectors of some rows of `pooled` [items, hidden]."""

    def vectors(rows: Positions) -> Vectors:
        units: Vectors = functional.normalize(pooled[torch.as_tensor(rows)], dim=-1).cpu().numpy()
        return units

    return vectors


def _set_residuals(teacher: Teacher, data: TrainingData, texts: Tensor, vectors: Vectors) -> None:
    """Set the residuals of the items without interactions so that their vectors are `vectors`, [those items, d]."""
    is_cold = ~data.has_events
    teacher.residual[is_cold] = torch.as_tensor(vectors).to(texts) - texts[is_cold]
