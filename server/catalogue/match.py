"""What the index of words says of texts: the items that have their words, and whether each is a title."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from server.catalogue.sparse import Entries, merged
from server.catalogue.words import Words

_TITLED, _COVERED = 0.5, 0.6  # shares of a title's words that stand in titles, and in one item
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]


class Matches:
    """Texts against the index, each as if it were alone.

    A row is a known word that a word of a text is or stands for: most words have one, an unknown word has some or none.

    Args:
        index: of words.
        texts: maybe empty ones.
        items: size of the catalogue.

    Attributes:
        boosts: BM25 of each text against each item that has a word of it.
    """

    def __init__(self, index: Words, texts: Sequence[str], items: int) -> None:
        self._index, self._items, self._texts = index, items, len(texts)
        words = [index.rows_of(text) for text in texts]
        every = [word for some in words for word in some]
        self._text_of_word = np.arange(self._texts).repeat([len(some) for some in words])
        self._sizes = np.array([len(rows) for rows, _ in every], dtype=np.int64)
        self._rows = np.array([row for rows, _ in every for row in rows], dtype=np.int64)
        self._shares = np.array([share for _, shares in every for share in shares], dtype=np.float64)
        self._text_of_row = self._text_of_word.repeat(self._sizes)
        self._rarity = index.rarity(self._rows, items)
        positions, weights, self._postings = index.postings.gather(self._rows)
        self._positions, self._text_of_posting = positions, self._text_of_row.repeat(self._postings)
        values = weights * self._shares.repeat(self._postings)
        self.boosts = merged(Entries(self._text_of_posting, positions, values), self._texts, items)

    @cached_property
    def is_title(self) -> Flags:
        """Whether each text looks like a title: most of its words stand in titles, and one item has most of them.

        Words are weighed by how rare they are.
        """
        weights = self._shares * self._rarity
        titled = self._sum(weights * self._index.titled[self._rows]) >= _TITLED * self._sum(weights)
        return titled & (self.best >= 0) & (self.cover(self.best)[0] >= _COVERED)

    @cached_property
    def best(self) -> Numbers:
        """Position of the item with the best match for each text, the first one of equals; -1 for none."""
        owners, positions, values = self.boosts
        best, sizes = np.full(self._texts, -1), np.bincount(owners, minlength=self._texts)
        if len(values):
            starts = (np.cumsum(sizes) - sizes)[sizes > 0]
            is_best = np.flatnonzero(values == np.maximum.reduceat(values, starts).repeat(sizes[sizes > 0]))
            best[sizes > 0] = positions[is_best[np.searchsorted(is_best, starts)]]
        return best

    def cover(self, items: Numbers) -> tuple[Floats, Numbers]:
        """Share of the words of each text, weighed by how rare they are, that an item has, and how many these are.

        Words of which the index cannot tell whether the item has them do not count.

        Args:
            items: position of an item for each text.
        """
        has = np.zeros(len(self._rows))
        has[self._row_of_posting[self._positions == items[self._text_of_posting]]] = 1
        found = self._of_words(self._shares * has, 0.0)
        is_told = (found > 0) | (self._of_words(self._is_partial, 0.0) == 0)
        rarity = self._of_words(self._rarity, float(np.log1p(self._items))) * is_told
        whole = np.bincount(self._text_of_word, rarity, self._texts)
        had = np.bincount(self._text_of_word, found * rarity, self._texts)
        return had / np.where(whole, whole, 1), np.bincount(self._text_of_word[found > 0], minlength=self._texts)

    @cached_property
    def _is_partial(self) -> Floats:
        """1 for each row of which the index lacks some items, 0 for the others."""
        return (self._postings < self._index.often[self._rows]).astype(np.float64)

    @cached_property
    def _row_of_posting(self) -> Numbers:
        return np.arange(len(self._rows)).repeat(self._postings)

    def _sum(self, values: Floats) -> Floats:
        """The sum of the rows' values for each text."""
        return np.bincount(self._text_of_row, values, self._texts).astype(np.float64, copy=False)

    def _of_words(self, values: Floats, missing: float) -> Floats:
        """The largest of the rows' values for each word; `missing` for a word without rows."""
        found, is_known = np.full(len(self._sizes), missing), self._sizes > 0
        if len(values):
            found[is_known] = np.maximum.reduceat(values, (np.cumsum(self._sizes) - self._sizes)[is_known])
        return found
