"""The teacher's loss: next item, the items that a phrase fits, and the wanted item behind history and query."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.data.phrases import Phrase
from export.train.examples import Queries, Windows
from export.train.teacher import Bank, Teacher
from server.models.ranker import Kind

_DROP_RESIDUAL = 0.2
_TEXT_HISTORY = 0.25  # share of histories that come as texts
_TEXT_EVENT = 0.1  # share of events that come as texts elsewhere
_QUERY_WEIGHT = 0.3


class Step:
    """The vectors of one training step, each made once: items with some residuals dropped, and texts."""

    def __init__(self, teacher: Teacher, bank: Bank) -> None:
        self._teacher, self._bank = teacher, bank
        ways, items, _ = bank.variants.shape
        kept = (torch.rand(items, 1) > _DROP_RESIDUAL).float()
        self.items = teacher.text_vectors(bank.variants[0]) + teacher.residual * kept
        self.texts = teacher.text_vectors(bank.variants[torch.randint(ways, (items,)), torch.arange(items)])

    def next_item(self, batch: Windows) -> Tensor:
        """-log P(next item) over the whole catalogue, averaged over all steps."""
        rows, time = batch.items.shape
        as_text = (torch.rand(rows, 1) < _TEXT_HISTORY) | (torch.rand(rows, time) < _TEXT_EVENT)
        vectors = torch.where(as_text.unsqueeze(-1), self.texts[batch.items], self.items[batch.items])
        kinds = torch.where(as_text, int(Kind.TEXT), int(Kind.ITEM))
        users = self._teacher.ranker(vectors, kinds, batch.mask)
        there = batch.targets >= 0
        return functional.cross_entropy(users[there] @ self.items.T, batch.targets[there])

    def phrase(self, chosen: Tensor, fitting: Tensor) -> Tensor:
        """Cross-entropy to the items that each phrase fits; `fitting` is a distribution [phrases, items]."""
        vectors = self._teacher.text_vectors(self._bank.phrases[chosen]).unsqueeze(1)
        ones = torch.ones(len(chosen), 1, dtype=torch.int64)
        users = self._teacher.ranker(vectors, ones * int(Kind.QUERY), ones)[:, 0]
        return functional.cross_entropy(users @ self.items.T, fitting[chosen])

    def wanted(self, batch: Queries) -> Tensor:
        """-log P(wanted item) behind a history and a query."""
        size, time = batch.items.shape
        by_title = self._teacher.text_vectors(self._bank.variants[2][batch.wanted])
        by_phrase = self._teacher.text_vectors(self._bank.phrases[batch.phrase.clamp(min=0)])
        query = torch.where((batch.phrase < 0).unsqueeze(-1), by_title, by_phrase)
        rows = torch.arange(size)
        vectors = torch.cat([self.items[batch.items], self.items.new_zeros(size, 1, query.shape[1])], dim=1)
        vectors[rows, batch.lengths] = query
        kinds = torch.zeros(size, time + 1, dtype=torch.int64)
        kinds[rows, batch.lengths] = int(Kind.QUERY)
        mask = (torch.arange(time + 1) <= batch.lengths.unsqueeze(1)).long()
        users = self._teacher.ranker(vectors, kinds, mask)[rows, batch.lengths]
        return functional.cross_entropy(users @ self.items.T, batch.wanted)

    def total(self, batch: Windows, queries: Queries, chosen: Tensor, fitting: Tensor) -> Tensor:
        """The weighted sum."""
        asked = self.wanted(queries) if not len(fitting) else self.wanted(queries) + self.phrase(chosen, fitting)
        return self.next_item(batch) + _QUERY_WEIGHT * asked


def fitting_items(phrases: list[Phrase], popularity: Tensor) -> Tensor:
    """For each phrase the distribution over the items that it fits, by popularity; float32 [phrases, items]."""
    weights = np.zeros((len(phrases), len(popularity)), dtype=np.float32)
    for row, phrase in zip(weights, phrases, strict=True):
        row[phrase.items] = popularity[phrase.items] + 0.5
    table = torch.from_numpy(weights)
    return table / table.sum(1, keepdim=True).clamp(min=1e-9)
