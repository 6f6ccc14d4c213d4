"""The teacher's loss: next item, the items that a query fits, and the wanted item behind history and query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swiftrec.export.data.text_variants import TextVariant
from swiftrec.export.models.teacher import Bank, Teacher
from swiftrec.export.train.ensemble import Guides
from swiftrec.export.train.samplers import Asked, Queries, Windows
from swiftrec.export.train.targets import Among, against
from swiftrec.server.models.networks import Kind

_DROP_RESIDUAL = 0.2
_TEXT_HISTORY = 0.25  # share of histories that come as texts
_TEXT_EVENT = 0.1  # share of events that come as texts elsewhere
_QUERY_WEIGHT = 0.3
_NEAR_WEIGHT = 0.2  # of BERT's own nearest items in the loss of queries without a history
_NEAR_TEMPERATURE = 0.05
_GUIDED = 0.5  # share of the guides' answers in the next-item loss, if there are any


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step reads.

    Args:
        windows: histories.
        queries: queries behind histories.
        asked: queries without a history.
        among: the items that the step looks at.
        ways: int64 [among], the way in which each of them is written where it comes as a text.
        read: int64, rows of the bank that matter most to the step.
    """

    windows: Windows
    queries: Queries
    asked: Asked
    among: Among
    ways: Tensor
    read: NDArray[np.int64]


class Seen(NamedTuple):
    """What a ranker reads: vectors [batch, time, dimensions], kinds and mask int64 [batch, time]."""

    vectors: Tensor
    kinds: Tensor
    mask: Tensor


class Step:
    """The vectors of one training step, each made once: items with some residuals dropped, and texts."""

    def __init__(
        self, teacher: Teacher, bank: Bank, batch: Batch, kind: str, guides: Guides | None = None, pull: float = 0.0
    ) -> None:
        self._pull = pull
        self._teacher, self._bank, self._batch, self._kind, self._guides = teacher, bank, batch, kind, guides
        items = batch.among.items
        kept = (torch.rand(len(items), 1) > _DROP_RESIDUAL).float()
        own = teacher.text_vectors(bank.variants[TextVariant.FULL, items])
        residuals = teacher.residuals(items)
        self.items = own + residuals * kept
        self._whole = (own + residuals).detach()
        self.texts = teacher.text_vectors(bank.variants[batch.ways, items])

    def total(self) -> Tensor:
        """The weighted sum."""
        asked = self.wanted(self._batch.queries) + self.alone(self._batch.asked)
        loss = self.next_item(self._batch.windows) + _QUERY_WEIGHT * asked
        return loss + self._pull * self.apart() if self._pull else loss

    def apart(self) -> Tensor:
        """Mean cosine distance of texts from the vectors of their items, which stand still for it."""
        return (1 - functional.cosine_similarity(self.texts, self._whole, dim=-1)).mean()

    def next_item(self, batch: Windows) -> Tensor:
        """-log P(next item), averaged over all steps of all histories."""
        there = batch.targets >= 0
        users = self._teacher.ranker(*self._histories(batch))[there]
        loss = self._against(users, batch.targets[there], batch.worth[there])
        if self._guides is None:
            return loss
        wanted = self._guides.chances(batch, self._batch.among)
        return (1 - _GUIDED) * loss + _GUIDED * functional.cross_entropy(users @ self.items.T, wanted)

    def alone(self, asked: Asked) -> Tensor:
        """-log P(an item that the query fits), without a history.

        A text of an item should also find the items whose texts are nearest to it by BERT's own vectors.
        """
        users = self._teacher.ranker(*self._alone(asked))[:, 0]
        loss = self._against(users, asked.item, asked.worth)
        is_item = asked.text < self._bank.rows.first_phrase
        if self._kind == "mse" or not is_item.any():
            return loss
        near = functional.cross_entropy(users[is_item] @ self.items.T, self._near(asked.text[is_item]))
        return loss + _NEAR_WEIGHT * near

    def _near(self, text: Tensor) -> Tensor:
        """How near each item's text is to each query by BERT's own vectors, as chances [queries, among]."""
        with torch.no_grad():
            queries = functional.normalize(self._pooled(text), dim=-1)
            items = functional.normalize(self._bank.variants[TextVariant.FULL, self._batch.among.items], dim=-1)
            return functional.softmax(queries @ items.T / _NEAR_TEMPERATURE, dim=-1)

    def wanted(self, batch: Queries) -> Tensor:
        """-log P(wanted item) behind a history and a query."""
        users = self._teacher.ranker(*self._behind(batch))[torch.arange(len(batch.lengths)), batch.lengths]
        return self._against(users, batch.wanted, batch.worth)

    def all_seen(self) -> list[Seen]:
        """The histories, the histories with queries behind them, and the queries without a history."""
        batch = self._batch
        return [self._histories(batch.windows), self._behind(batch.queries), self._alone(batch.asked)]

    def _histories(self, batch: Windows) -> Seen:
        """Items and, at random, texts in their place."""
        rows, time = batch.items.shape
        place = self._batch.among.place[batch.items]
        as_text = (torch.rand(rows, 1) < _TEXT_HISTORY) | (torch.rand(rows, time) < _TEXT_EVENT)
        vectors = torch.where(as_text.unsqueeze(-1), self.texts[place], self.items[place])
        return Seen(vectors, torch.where(as_text, int(Kind.TEXT), int(Kind.ITEM)), batch.mask)

    def _alone(self, asked: Asked) -> Seen:
        vectors = self._teacher.text_vectors(self._pooled(asked.text)).unsqueeze(1)
        ones = torch.ones(len(vectors), 1, dtype=torch.int64)
        return Seen(vectors, ones * int(Kind.QUERY), ones)

    def _behind(self, batch: Queries) -> Seen:
        size, time = batch.items.shape
        query = self._teacher.text_vectors(self._pooled(batch.text))
        rows = torch.arange(size)
        events = self.items[self._batch.among.place[batch.items]]
        vectors = torch.cat([events, events.new_zeros(size, 1, query.shape[1])], dim=1)
        vectors[rows, batch.lengths] = query.to(vectors.dtype)
        kinds = torch.zeros(size, time + 1, dtype=torch.int64)
        kinds[rows, batch.lengths] = int(Kind.QUERY)
        return Seen(vectors, kinds, (torch.arange(time + 1) <= batch.lengths.unsqueeze(1)).long())

    def _pooled(self, rows: Tensor) -> Tensor:
        """BERT's vectors of rows of `Texts.all`, [texts, hidden]."""
        written, phrases = self._bank.variants.flatten(0, 1), self._bank.phrases
        if not len(phrases):
            return written[rows]
        is_phrase = rows >= len(written)
        own, asked = written[rows.clamp(max=len(written) - 1)], phrases[(rows - len(written)).clamp(min=0)]
        return torch.where(is_phrase.unsqueeze(-1), asked, own)

    def _against(self, users: Tensor, taken: Tensor, worth: Tensor) -> Tensor:
        among = self._batch.among
        return against(self._kind, users, self.items, among.place[taken], among.drawn, worth)
