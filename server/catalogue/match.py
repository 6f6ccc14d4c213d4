"""What the index of words says of one text: the items that have its words, and whether it is a title."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from server.catalogue.sparse import Boosts, summed
from server.catalogue.words import Words

_TITLED, _COVERED = 0.5, 0.6  # shares of a title's words that stand in titles, and in one item


class Match:
    """One text against the index. Everything is computed when it is first needed, and once.

    Args:
        index: of words.
        text: maybe empty.
        items: size of the catalogue.
    """

    def __init__(self, index: Words, text: str, items: int) -> None:
        self._index, self._words, self._items = index, index.rows_of(text), items

    @cached_property
    def boosts(self) -> Boosts:
        """BM25 of the text against each item that has a word of it."""
        positions, weights, sizes = self._postings
        shares = self._flat[1]
        entries = positions, weights if (shares == 1).all() else weights * shares.repeat(sizes)
        return summed([entries], self._items).listed()

    @cached_property
    def is_title(self) -> bool:
        """Whether the text looks like a title: most of its words stand in titles, and one item has most of them.

        Words are weighed by how rare they are.
        """
        rows, shares = self._flat
        weights = shares * self._rarity
        if not len(rows) or weights @ self._index.titled[rows] < _TITLED * weights.sum():
            return False
        best = int(self.boosts.positions[np.argmax(self.boosts.values)])
        return self.cover(best)[0] >= _COVERED

    def cover(self, item: int) -> tuple[float, int]:
        """Share of the words, weighed by how rare they are, that an item has, and how many these are.

        Words of which the index cannot tell whether the item has them do not count.
        """
        has, is_partial, rarities = self._has(item), self._is_partial, self._rarity.tolist()
        had, whole, count, row = 0.0, 0.0, 0, 0
        for rows, shares in self._words:
            part = slice(row, row + len(rows))
            row += len(rows)
            found = [share for share, is_there in zip(shares, has[part], strict=True) if is_there]
            if not found and any(is_partial[part]):
                continue
            rarity = max(rarities[part], default=self._unknown_rarity)
            whole += rarity
            had += max(found, default=0.0) * rarity
            count += bool(found)
        return had / whole if whole else 0.0, count

    @cached_property
    def _flat(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The known words, and by which share each counts."""
        rows = [row for places, _ in self._words for row in places]
        shares = [share for _, counted in self._words for share in counted]
        return np.array(rows, dtype=np.int64), np.array(shares)

    @cached_property
    def _postings(self) -> tuple[NDArray[np.int32], NDArray[np.float32], list[int]]:
        """The items of each of these words, their BM25, and how many each word has."""
        return self._index.postings.gather(self._flat[0])

    @cached_property
    def _rarity(self) -> NDArray[np.float64]:
        """Of each of these words."""
        return self._index.rarity(self._flat[0], self._items)

    @property
    def _unknown_rarity(self) -> float:
        """Of a word that no item has."""
        return float(np.log1p(self._items))

    @cached_property
    def _is_partial(self) -> list[bool]:
        """Of each of these words whether the index lacks some of its items."""
        is_partial: list[bool] = (np.array(self._postings[2]) < self._index.often[self._flat[0]]).tolist()
        return is_partial

    def _has(self, item: int) -> list[bool]:
        """Of each of these words whether an item has it, as far as the index knows."""
        positions, _, sizes = self._postings
        has = [False] * len(sizes)
        ends = np.cumsum(sizes)
        for place in np.flatnonzero(positions == item).tolist():
            has[int(np.searchsorted(ends, place, side="right"))] = True
        return has
