"""What is evaluated: something that ranks the catalogue, be it the PyTorch teacher or the server's own models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.train.ranker import LastUser
from export.train.teacher import Teacher
from server.models.ranker import Kind, RankerModel, UserSequence

Vectors = NDArray[np.float32]
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Subject:
    """Vectors of items [items, d], of their titles [items, d] and of the probes [probes, d], and a ranker."""

    items: Vectors
    titles: Vectors
    probes: Vectors
    rank: Callable[[list[UserSequence]], Vectors]

    def from_items(self, histories: list[NDArray[np.int64]]) -> Vectors:
        """Scores [users, items] from histories as item ids."""
        return self._scores([UserSequence(list(self.items[h]), [Kind.ITEM] * len(h)) for h in histories])

    def from_texts(self, histories: list[NDArray[np.int64]]) -> Vectors:
        """Scores [users, items] from the same histories given only as titles."""
        return self._scores([UserSequence(list(self.titles[h]), [Kind.TEXT] * len(h)) for h in histories])

    def from_probes(self) -> Vectors:
        """Scores [probes, items] of queries without a history."""
        return self._scores([UserSequence([v], [Kind.QUERY]) for v in self.probes])

    def _scores(self, sequences: list[UserSequence]) -> Vectors:
        users = [self.rank(sequences[n : n + _BATCH]) for n in range(0, len(sequences), _BATCH)]
        return np.concatenate(users) @ self.items.T


def torch_rank(teacher: Teacher) -> Callable[[list[UserSequence]], Vectors]:
    """The teacher's ranker in PyTorch, behind the server's way of padding."""
    last = LastUser(teacher.ranker).eval()

    class Session:
        def run(self, feeds: dict[str, NDArray[np.generic]]) -> Vectors:
            with torch.inference_mode():
                users: Vectors = last(*(torch.from_numpy(feeds[n]) for n in ("vectors", "kinds", "mask"))).numpy()
            return users

    model = RankerModel(Session(), teacher.projection.out_features)
    return lambda sequences: np.array(model.run(sequences))
