"""What training reads: histories, the items that validate, and every text, the augmented ones among them."""

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
from swiftrec.export.train.losses import Batch
from swiftrec.export.train.options import FULL_ITEMS
from swiftrec.export.train.samplers import (
    QUERY_HISTORY,
    Asked,
    LoneQuerySampler,
    Queries,
    QuerySampler,
    Windows,
    windows,
)
from swiftrec.export.train.targets import Among, Negatives

# Batches in an epoch at most. MovieLens-100K has 133; from some hundred thousand events on, an epoch reads a sample of
# the histories, and the time of training no longer grows with their number.
EPOCH_BATCHES = 500
_CORRUPTED = (TextVariant.FULL, TextVariant.TITLE)  # whose copies take turns in `--augment`
MAX_STEP_BYTES = 6_442_450_944  # for the scores of one step
# How often a step holds its scores, measured: forward and backward; with --loss mse; how often more with --teachers.
_COPIES, _COPIES_OF_MSE, _COPIES_OF_TEACHERS = 3, 5, 3


@dataclass(frozen=True)
class World:
    """Histories and texts. `texts` are the data set's own, `ways` the same with `augment` more ways for each item.

    An epoch reads at most `epoch_batches` batches of histories, drawn anew each time.
    """

    split: Split
    texts: Texts
    ways: Texts
    negatives: int | None
    epoch_batches: int = EPOCH_BATCHES

    @property
    def items(self) -> int:
        """Number of items in the catalogue."""
        return self.texts.rows.items

    def originals(self, rows: Tensor) -> Tensor:
        """The rows of `texts.all` among those of `ways.all`, [texts, ...]; no copy where they are the same."""
        own, every = self.texts.rows.first_phrase, self.ways.rows.first_phrase
        return rows if own == every else torch.cat([rows[:own], rows[every:]])

    @cached_property
    def popularity(self) -> NDArray[np.float64]:
        """How often each item was taken in training."""
        return interaction_counts(self.split.train, self.items).astype(np.float64)

    @cached_property
    def worth(self) -> NDArray[np.float32]:
        """How much each item was wanted by those who took it in training, on average, [items]; 1 without ratings."""
        if not self.split.relevance:
            return np.ones(self.items, np.float32)
        total = np.bincount(np.concatenate(self.split.train), np.concatenate(self.split.relevance), self.items)
        mean: NDArray[np.float32] = (total / self.popularity.clip(min=1)).astype(np.float32)
        return mean

    @cached_property
    def is_taken(self) -> Tensor:
        """Whether anybody took the item in training, bool [items]."""
        return torch.as_tensor(is_trained(self.split.train, self.items))

    @cached_property
    def _queries(self) -> QuerySampler:
        return QuerySampler(self.split.train, self.texts.phrases, self.ways.rows, self.split.relevance)

    @cached_property
    def _asked(self) -> LoneQuerySampler:
        return LoneQuerySampler(self.texts.phrases, self.popularity, self.worth, self.ways.rows)

    @cached_property
    def _taken(self) -> Among:
        return Among.all(self.is_taken)

    @cached_property
    def _negatives(self) -> Negatives | None:
        return None if self.negatives is None else Negatives(torch.as_tensor(self.popularity), self.negatives)

    def epoch(self, length: int, size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """One pass over the histories, or as many batches of `size` windows of `length` events as an epoch may have.

        Without order each history is shuffled.
        """
        read = self.split.reordered(rng) if self.split.order == UNORDERED else self.split
        queries = self._queries.behind(read.train, read.relevance)
        for window in islice(windows(read.train, length, size, rng, read.relevance), self.epoch_batches):
            yield self._batch(window, queries.draw(size, rng), self._asked.draw(size, rng), rng)

    def _batch(self, windows: Windows, queries: Queries, asked: Asked, rng: np.random.Generator) -> Batch:
        """A step's windows and queries, behind histories and without, with the items that it looks at."""
        if self._negatives is None:
            among = self._taken
        else:
            taken = [windows.items, windows.targets.clamp(min=0), queries.items, queries.wanted, asked.item]
            among = self._negatives.draw(torch.cat([t.flatten() for t in taken]))
        ways = torch.as_tensor(rng.integers(0, len(self.ways.variants), len(among.items)))
        return Batch(windows, queries, asked, among, ways, self._read(windows, queries, asked, among, ways))

    def _read(self, windows: Windows, queries: Queries, asked: Asked, among: Among, ways: Tensor) -> NDArray[np.int64]:
        """Rows of the bank: full text and drawn text of the windows' items, and what is asked."""
        items = torch.unique(torch.cat([windows.items[windows.mask > 0], windows.targets[windows.targets >= 0]]))
        starts = torch.as_tensor(self.ways.rows.starts)[ways]
        rows = torch.cat([items, starts[among.place[items]] + items, queries.text, asked.text])
        return rows.cpu().numpy()


def negatives_of(settings: ExportSettings, items: int) -> int | None:
    """How many items a step draws; None for the whole catalogue, which `auto` takes only where it fits into memory.

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
    """The most memory that the scores of one step need: float32 [users, scored items], in as many copies as are held.

    With `negatives` a step scores these and every item that its histories, queries and phrases name; else all `items`.
    """
    history = settings.plan.max_history
    named = settings.batch * (history + 1 + QUERY_HISTORY + 2)  # a window, a query with its target, a phrase
    scored = items if negatives is None else min(items, negatives + named)
    copies = _COPIES_OF_MSE if settings.loss == "mse" else _COPIES
    copies += _COPIES_OF_TEACHERS if settings.teachers > 1 else 0
    return 4 * copies * settings.batch * history * scored


def _too_large(settings: ExportSettings, items: int, negatives: int | None, needed: int) -> str:
    """The refusal, with the batch that fits: a half, a quarter ... of the one given, accumulated to the same step."""
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


def with_noise(texts: Texts, ways: int, seed: int, synonyms: float = 0.0) -> Texts:
    """The texts with `ways` more ways to write each item, as a hurried person would; the first two ways take turns.

    A share `synonyms` of the words that have one in the catalogue is exchanged before.
    """
    rng = random.Random(seed)  # noqa: S311 (no secret)
    known = learn(texts.variants[TextVariant.FULL], texts.rows.items) if ways and synonyms else {}
    noisy = [
        [corrupt(replaced(text, known, synonyms, rng), rng) for text in texts.variants[_CORRUPTED[n % 2]]]
        for n in range(ways)
    ]
    return Texts([*texts.variants, *noisy], texts.phrases, texts.others)
