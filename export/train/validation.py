"""NDCG@10 of the items that validate: what every choice in training looks at; it never sees the test items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.data.split import Cases, Histories, Split
from swiftrec.export.data.text_variants import TextVariant
from swiftrec.export.evaluate.metrics import ndcg
from swiftrec.export.models.encoder import pad
from swiftrec.export.models.ranker import LastUser
from swiftrec.export.models.teacher import Bank, Teacher
from swiftrec.server.models.networks import Kind

_BATCH = 64
_MAX_SCORES = 200_000_000  # users times items: 200 users of a million items, some seconds
_MIN_USERS = 100


@dataclass(frozen=True, slots=True)
class Validation:
    """NDCG@10 of histories as ids and as titles; what may not be recommended again is masked."""

    ids: float
    text: float

    @property
    def mean(self) -> float:
        """What training tries to raise."""
        return (self.ids + self.text) / 2


@torch.no_grad()
def validate(teacher: Teacher, bank: Bank, split: Split, max_history: int) -> Validation:
    """How well the next item of each training history is found; with many users and items every n-th user is asked."""
    teacher.eval()
    cases = some_users(split.validation, len(teacher.residual))
    items = teacher.item_vectors(teacher.text_vectors(bank.variants[TextVariant.FULL]))
    titles = teacher.text_vectors(bank.variants[TextVariant.TITLE])
    found: dict[Kind, list[float]] = {Kind.ITEM: [], Kind.TEXT: []}
    for kind, vectors in ((Kind.ITEM, items), (Kind.TEXT, titles)):
        asked = zip(cases.masked, cases.targets.tolist(), strict=True)
        for users in users_of(teacher, vectors, kind, cases.histories, max_history):
            scores = (users @ items.T).float().cpu().numpy()
            found[kind] += [ndcg(row, *next(asked)) for row in scores]
    return Validation(float(np.mean(found[Kind.ITEM])), float(np.mean(found[Kind.TEXT])))


def some_users(cases: Cases, items: int) -> Cases:
    """The cases of every user, or of every n-th where users times `items` are too many."""
    step = max(1, -(-len(cases.targets) // max(_MIN_USERS, _MAX_SCORES // items)))
    return cases.take(np.arange(0, len(cases.targets), step))


@torch.no_grad()
def users_of(teacher: Teacher, vectors: Tensor, kind: Kind, histories: Histories, max_history: int) -> Iterator[Tensor]:
    """The user vectors behind histories of `vectors` [items, d], in their order, a batch [users, d] at a time."""
    last = LastUser(teacher.ranker)
    for start in range(0, len(histories), _BATCH):
        events, mask = pad([h[-max_history:].tolist() for h in histories[start : start + _BATCH]])
        yield last(vectors[events], torch.full_like(events, int(kind)), mask)
