"""The training data: histories, validation items and all texts, with their augmented copies."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.order import UNORDERED
from swiftrec.export.data.popularity import interaction_counts, is_trained
from swiftrec.export.data.split import Split
from swiftrec.export.data.synonyms import learn, replaced
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.errors import ExportError
from swiftrec.export.train.candidates import Candidates, NegativeSampler
from swiftrec.export.train.losses import Batch
from swiftrec.export.train.samplers import (
    QUERY_HISTORY,
    LoneQueries,
    LoneQuerySampler,
    Queries,
    QuerySampler,
    Windows,
    windows,
)
from swiftrec.export.training_settings import FULL_ITEMS

# Batches in an epoch at most. MovieLens-100K has 133; from some hundred thousand events on, an epoch reads a sample of
# the histories, and the time of training no longer grows with their number.
EPOCH_BATCHES = 500
_CORRUPTED = (TextVariant.FULL, TextVariant.TITLE)  # whose copies take turns in `--augment`
MAX_STEP_BYTES = 6_442_450_944  # for the scores of one step
# Copies of the scores that a step holds, measured: forward and backward; with --loss mse; additional with --teachers.
_COPIES, _COPIES_OF_MSE, _COPIES_OF_TEACHERS = 3, 5, 3


@dataclass(frozen=True)
class TrainingData:
    """Histories and texts.

    Args:
        split: what is trained on and what validates.
        texts: the data set's own.
        augmented: the same with `--augment` more variants of each item's text.
        negatives: how many items a step draws; None: it scores the whole catalogue.
        epoch_batches: batches of an epoch, at most; the histories of each epoch are drawn again.
    """

    split: Split
    texts: Texts
    augmented: Texts
    negatives: int | None
    epoch_batches: int = EPOCH_BATCHES

    @property
    def items(self) -> int:
        """Number of items in the catalogue."""
        return self.texts.rows.items

    def item_rows(self, rows: Tensor) -> Tensor:
        """The items' full texts among the rows of `texts.all` or `augmented.all`, [items, ...]."""
        return rows[self.texts.rows.of(TextVariant.FULL)]

    def originals(self, rows: Tensor) -> Tensor:
        """The rows of `texts.all` among those of `augmented.all`, [texts, ...]; not copied if they are the same."""
        first, first_augmented = self.texts.rows.first_phrase, self.augmented.rows.first_phrase
        return rows if first == first_augmented else torch.cat([rows[:first], rows[first_augmented:]])

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """Number of training events of each item, [items]."""
        return interaction_counts(self.split.train, self.items).astype(np.float64)

    @cached_property
    def relevance(self) -> NDArray[np.float32]:
        """Mean relevance of each item in training, [items]; 1 without ratings."""
        if not self.split.relevance:
            return np.ones(self.items, np.float32)
        total = np.bincount(np.concatenate(self.split.train), np.concatenate(self.split.relevance), self.items)
        mean: NDArray[np.float32] = (total / self.popularity.clip(min=1)).astype(np.float32)
        return mean

    @cached_property
    def has_events(self) -> Tensor:
        """Whether the item has training events, bool [items]."""
        return torch.as_tensor(is_trained(self.split.train, self.items))

    @cached_property
    def _query_sampler(self) -> QuerySampler:
        return QuerySampler(self.split.train, self.texts.phrases, self.augmented.rows, self.split.relevance)

    @cached_property
    def _lone_query_sampler(self) -> LoneQuerySampler:
        return LoneQuerySampler(self.texts.phrases, self.popularity, self.relevance, self.augmented.rows)

    @cached_property
    def _all_candidates(self) -> Candidates:
        return Candidates.all(self.has_events)

    @cached_property
    def _negative_sampler(self) -> NegativeSampler | None:
        return None if self.negatives is None else NegativeSampler(torch.as_tensor(self.popularity), self.negatives)

    def batches(self, length: int, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch over the histories, in batches of `size` windows of `length` events.

        Unordered histories are shuffled.
        """
        split = self.split.reordered(rng) if self.split.order == UNORDERED else self.split
        queries = self._query_sampler.behind(split.train, split.relevance)
        for window in islice(windows(split.train, length, size, rng, split.relevance), self.epoch_batches):
            yield self._batch(window, queries.draw(size, rng), self._lone_query_sampler.draw(size, rng), rng)

    def _batch(self, windows: Windows, queries: Queries, lone_queries: LoneQueries, rng: np.random.Generator) -> Batch:
        """Windows and queries with the items that are scored."""
        if self._negative_sampler is None:
            candidates = self._all_candidates
        else:
            targets = windows.targets.clamp(min=0)
            needed = (windows.items, targets, queries.items, queries.target, lone_queries.item)
            candidates = self._negative_sampler.draw(torch.cat([items.flatten() for items in needed]))
        variants = torch.as_tensor(rng.integers(0, self.augmented.rows.variants, len(candidates.items)))
        return Batch(windows, queries, lone_queries, candidates, variants)


def negatives_of(settings: ExportSettings, items: int) -> int | None:
    """How many items a step draws; None for the whole catalogue, which `auto` scores only if it fits into memory.

    Raises:
        ExportError: a step needs more than `MAX_STEP_BYTES`.
    """
    may_be_whole = settings.loss == "softmax" or (settings.loss == "auto" and items <= FULL_ITEMS)
    if may_be_whole and step_bytes(settings, items, None) <= MAX_STEP_BYTES:
        return None
    negatives = None if settings.loss == "softmax" else settings.negatives
    if (needed := step_bytes(settings, items, negatives)) > MAX_STEP_BYTES:
        raise ExportError(_too_large(settings, items, negatives, needed))
    return settings.negatives


def step_bytes(settings: ExportSettings, items: int, negatives: int | None) -> int:
    """Upper bound of the memory for the scores of one step: copies of float32 [users, scored items].

    With `negatives` a step scores these and every item of its histories, queries and phrases; else all `items`.
    """
    history = settings.plan.max_history
    named = settings.batch * (history + 1 + QUERY_HISTORY + 2)  # a window, a query with its target, a phrase
    scored = items if negatives is None else min(items, negatives + named)
    copies = _COPIES_OF_MSE if settings.loss == "mse" else _COPIES
    copies += _COPIES_OF_TEACHERS if settings.teachers > 1 else 0
    return 4 * copies * settings.batch * history * scored


def _too_large(settings: ExportSettings, items: int, negatives: int | None, needed: int) -> str:
    """The error message, with the batch that fits: a half, a quarter ... of the given one, and more accumulation."""
    fitting, parts = settings, 1
    while fitting.batch > 1 and step_bytes(fitting, items, negatives) > MAX_STEP_BYTES:
        parts *= 2
        fitting = settings.model_copy(update={"batch": max(1, settings.batch // parts)})
    accumulate = -(-settings.batch * settings.accumulate // fitting.batch)
    can_sample = negatives is None and step_bytes(settings, items, settings.negatives) <= MAX_STEP_BYTES
    return (
        f"--loss {settings.loss} over {items:,} items with --batch {settings.batch} needs {needed / 1e9:.0f} GB a "
        f"step, and at most {MAX_STEP_BYTES / 1e9:.0f} GB are allowed: use --batch {fitting.batch} "
        f"--accumulate {accumulate}{', or --loss auto' if can_sample else ''}"
    )


def augmented(texts: Texts, copies: int, seed: int, synonyms: float = 0.0) -> Texts:
    """The texts with `copies` more variants of each item's text: with typing errors, dropped and swapped words.

    The share `synonyms` of the words that have a synonym in the catalogue is replaced first.
    """
    rng = random.Random(seed)  # noqa: S311 (no secret)
    known = learn(texts.variants[TextVariant.FULL], texts.rows.items) if copies and synonyms else {}
    corrupted = [
        [corrupt(replaced(text, known, synonyms, rng), rng) for text in texts.variants[_CORRUPTED[n % 2]]]
        for n in range(copies)
    ]
    return Texts([*texts.variants, *corrupted], texts.phrases, texts.others)
