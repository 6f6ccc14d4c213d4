"""The teacher's loss: the next item, items that a query matches, and the target behind a history and a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from swiftrec.export.data.text_variants import TextVariant
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.train.candidates import Candidates
from swiftrec.export.train.ensemble import TeacherEnsemble
from swiftrec.export.train.samplers import LoneQueries, Queries, Windows
from swiftrec.server.models.networks import EventKind

_RESIDUAL_DROPOUT = 0.2
_TEXT_HISTORY_SHARE = 0.25  # of the histories: all their events are texts
_TEXT_EVENT_SHARE = 0.1  # of the events of the other histories
_QUERY_WEIGHT = 0.3
_SIMILARITY_WEIGHT = 0.2  # of BERT's own nearest items in the loss of queries without a history
_SIMILARITY_TEMPERATURE = 0.05
_ENSEMBLE_WEIGHT = 0.5  # of the ensemble's predictions in the next-item loss, if there is one


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one training step.

    Args:
        windows: histories.
        queries: queries behind histories.
        lone_queries: queries without a history.
        candidates: the items that are scored.
        variants: int64 [candidates], the text variant (position in `Texts.variants`) that stands for each of them.
    """

    windows: Windows
    queries: Queries
    lone_queries: LoneQueries
    candidates: Candidates
    variants: Tensor


class RankerInput(NamedTuple):
    """The input of a ranker: vectors [batch, time, dimensions], kinds and mask int64 [batch, time]."""

    vectors: Tensor
    kinds: Tensor
    mask: Tensor


class BatchLoss:
    """The loss of one training step; each vector is computed once.

    Args:
        teacher: the model.
        features: pooled BERT vectors of all texts.
        batch: the input.
        kind: "softmax", "auto", "sampled" or "mse".
        ensemble: teachers whose predictions are learned, too.
    """

    def __init__(
        self,
        teacher: Teacher,
        features: TextFeatures,
        batch: Batch,
        kind: str,
        ensemble: TeacherEnsemble | None = None,
    ) -> None:
        self._teacher, self._features, self._batch, self._kind, self._ensemble = (
            teacher,
            features,
            batch,
            kind,
            ensemble,
        )
        items = batch.candidates.items
        kept = (torch.rand(len(items), 1) > _RESIDUAL_DROPOUT).float()
        full_texts = teacher.text_vectors(features.variants[TextVariant.FULL, items])
        self.items = full_texts + teacher.residuals(items) * kept
        self.texts = teacher.text_vectors(features.variants[batch.variants, items])

    def total(self) -> Tensor:
        """The weighted sum of all losses."""
        queries = self.query_loss(self._batch.queries) + self.lone_query_loss(self._batch.lone_queries)
        return self.next_item_loss(self._batch.windows) + _QUERY_WEIGHT * queries

    def next_item_loss(self, windows: Windows) -> Tensor:
        """-log P(next item), averaged over all steps of all histories."""
        has_target = windows.targets >= 0
        users = self._teacher.ranker(*self._histories(windows))[has_target]
        loss = self.item_loss(users, windows.targets[has_target], windows.relevance[has_target])
        if self._ensemble is None:
            return loss
        probabilities = self._ensemble.probabilities(windows, self._batch.candidates)
        distillation = functional.cross_entropy(users @ self.items.T, probabilities)
        return (1 - _ENSEMBLE_WEIGHT) * loss + _ENSEMBLE_WEIGHT * distillation

    def lone_query_loss(self, queries: LoneQueries) -> Tensor:
        """-log P(an item that the query matches), without a history.

        A query that is an item's text also learns the items whose texts are nearest by BERT's own vectors.
        """
        vectors = self._teacher.text_vectors(self._pooled(queries.text)).unsqueeze(1)
        ones = torch.ones(len(vectors), 1, dtype=torch.int64)
        users = self._teacher.ranker(vectors, ones * int(EventKind.QUERY), ones)[:, 0]
        loss = self.item_loss(users, queries.item, queries.relevance)
        is_item = queries.text < self._features.rows.first_phrase
        if self._kind == "mse" or not is_item.any():
            return loss
        similarities = self._similarities(queries.text[is_item])
        return loss + _SIMILARITY_WEIGHT * functional.cross_entropy(users[is_item] @ self.items.T, similarities)

    def query_loss(self, queries: Queries) -> Tensor:
        """-log P(target) behind a history and a query."""
        users = self._teacher.ranker(*self._behind(queries))[torch.arange(len(queries.lengths)), queries.lengths]
        return self.item_loss(users, queries.target, queries.relevance)

    def item_loss(self, users: Tensor, targets: Tensor, relevance: Tensor) -> Tensor:
        """The loss of user vectors [n, dimensions] whose targets, int64 [n], have a `relevance` [n]."""
        candidates = self._batch.candidates
        return item_loss(self._kind, users, self.items, candidates.position[targets], candidates.draws, relevance)

    def _histories(self, windows: Windows) -> RankerInput:
        """Items and, at random, texts in their place."""
        rows, time = windows.items.shape
        position = self._batch.candidates.position[windows.items]
        is_text = (torch.rand(rows, 1) < _TEXT_HISTORY_SHARE) | (torch.rand(rows, time) < _TEXT_EVENT_SHARE)
        vectors = torch.where(is_text.unsqueeze(-1), self.texts[position], self.items[position])
        return RankerInput(vectors, torch.where(is_text, int(EventKind.TEXT), int(EventKind.ITEM)), windows.mask)

    def _behind(self, queries: Queries) -> RankerInput:
        """Histories with the query at the end."""
        size, time = queries.items.shape
        query = self._teacher.text_vectors(self._pooled(queries.text))
        rows = torch.arange(size)
        events = self.items[self._batch.candidates.position[queries.items]]
        vectors = torch.cat([events, events.new_zeros(size, 1, query.shape[1])], dim=1)
        vectors[rows, queries.lengths] = query.to(vectors.dtype)
        kinds = torch.zeros(size, time + 1, dtype=torch.int64)
        kinds[rows, queries.lengths] = int(EventKind.QUERY)
        return RankerInput(vectors, kinds, (torch.arange(time + 1) <= queries.lengths.unsqueeze(1)).long())

    def _similarities(self, texts: Tensor) -> Tensor:
        """Similarity of the items' texts to each text by BERT's own vectors, as probabilities [texts, candidates]."""
        with torch.no_grad():
            queries = functional.normalize(self._pooled(texts), dim=-1)
            pooled = self._features.variants[TextVariant.FULL, self._batch.candidates.items]
            items = functional.normalize(pooled, dim=-1)
            return functional.softmax(queries @ items.T / _SIMILARITY_TEMPERATURE, dim=-1)

    def _pooled(self, rows: Tensor) -> Tensor:
        """BERT's vectors of rows of `Texts.all`, [texts, hidden]."""
        item_texts, phrases = self._features.variants.flatten(0, 1), self._features.phrases
        if not len(phrases):
            return item_texts[rows]
        is_phrase = rows >= len(item_texts)
        of_items = item_texts[rows.clamp(max=len(item_texts) - 1)]
        of_phrases = phrases[(rows - len(item_texts)).clamp(min=0)]
        return torch.where(is_phrase.unsqueeze(-1), of_phrases, of_items)


def item_loss(
    kind: str, users: Tensor, items: Tensor, targets: Tensor, draws: Tensor | None, relevance: Tensor
) -> Tensor:
    """The loss named by `kind`; `draws` is None if `items` are the whole catalogue. Only "mse" reads `relevance`."""
    if kind == "mse":
        return squared_error(users, items, targets, draws, relevance)
    return softmax(users, items, targets) if draws is None else sampled_softmax(users, items, targets, draws)


def softmax(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """-log P(target) over all items; users [n, d], items [m, d], targets int64 [n]."""
    return functional.cross_entropy(users @ items.T, targets)


def sampled_softmax(users: Tensor, items: Tensor, targets: Tensor, draws: Tensor) -> Tensor:
    """-log P(target), the sum over the catalogue estimated from negatives that were drawn with a known probability.

    The logQ correction (Bengio and Senecal, 2008): a negative's logit grows by log(draws / (size * probability)), so
    that the estimated sum is unbiased; the target counts once, as itself.
    """
    logits = users @ items.T + draws.log()  # -inf: not drawn
    target_logits = (users * items[targets]).sum(-1)
    logits = logits.scatter(1, targets.unsqueeze(1), target_logits.unsqueeze(1))
    return functional.cross_entropy(logits, targets)


def squared_error(users: Tensor, items: Tensor, targets: Tensor, draws: Tensor | None, relevance: Tensor) -> Tensor:
    """Squared error of the scores against `relevance` [n] for targets and 0 for other items, half and half."""
    scores = users @ items.T
    target_scores = scores.gather(1, targets.unsqueeze(1))
    rest = torch.ones_like(scores) if draws is None else (draws > 0).to(scores.dtype).expand(scores.shape)
    rest = rest.scatter(1, targets.unsqueeze(1), 0.0)
    error = ((target_scores - relevance.to(scores.dtype).unsqueeze(1)) ** 2).mean()
    return error + (rest * scores**2).sum() / rest.sum().clamp(min=1)
