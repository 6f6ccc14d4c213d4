"""NDCG@10 on the validation items, by which training makes all its choices; it never sees the test items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.arrays import Histories
from swiftrec.export.data.split import Cases, Split
from swiftrec.export.data.text_variants import TextVariant
from swiftrec.export.evaluate.metrics import ndcg
from swiftrec.export.models.encoder import pad
from swiftrec.export.models.ranker import LastUser
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.server.models.networks import EventKind

_BATCH = 64
_MAX_SCORES = 200_000_000  # users times items: 200 users of a million items, some seconds
_MIN_USERS = 100


@dataclass(frozen=True, slots=True)
class Validation:
    """NDCG@10 of histories as ids and as titles; items that may not be recommended again are masked."""

    ids: float
    text: float

    @property
    def mean(self) -> float:
        """The figure that training maximises."""
        return (self.ids + self.text) / 2


@torch.no_grad()
def validate(teacher: Teacher, features: TextFeatures, split: Split, max_history: int) -> Validation:
    """NDCG@10 of the next item behind each training history; with many users and items of every n-th one."""
    teacher.eval()
    cases = index_training_users(split.validation, len(teacher.residual))
    items = teacher.item_vectors(teacher.text_vectors(features.variants[TextVariant.FULL]))
    titles = teacher.text_vectors(features.variants[TextVariant.TITLE])
    figures: dict[EventKind, list[float]] = {EventKind.ITEM: [], EventKind.TEXT: []}
    for kind, vectors in ((EventKind.ITEM, items), (EventKind.TEXT, titles)):
        targets = zip(cases.masked, cases.targets.tolist(), strict=True)
        for users in users_of(teacher, vectors, kind, cases.histories, max_history):
            scores = (users @ items.T).float().cpu().numpy()
            figures[kind] += [ndcg(row, *next(targets)) for row in scores]
    return Validation(float(np.mean(figures[EventKind.ITEM])), float(np.mean(figures[EventKind.TEXT])))


def index_training_users(cases: Cases, items: int) -> Cases:
    """The cases of every user, or of every n-th one if users times `items` are too many."""
    step = max(1, -(-len(cases.targets) // max(_MIN_USERS, _MAX_SCORES // items)))
    return cases.take(np.arange(0, len(cases.targets), step))


@torch.no_grad()
def users_of(
    teacher: Teacher, vectors: Tensor, kind: EventKind, histories: Histories, max_history: int
) -> Iterator[Tensor]:
    """The user vectors of histories of `vectors` [items, d], in batches [users, d]."""
    last = LastUser(teacher.ranker)
    for start in range(0, len(histories), _BATCH):
        events, mask = pad([h[-max_history:].tolist() for h in histories[start : start + _BATCH]])
        yield last(vectors[events], torch.full_like(events, int(kind)), mask)
