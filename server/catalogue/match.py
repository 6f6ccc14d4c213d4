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
        rows, shares = self._flat
        positions, weights, sizes = self._index.postings.gather(rows)
        entries = positions, weights if (shares == 1).all() else weights * shares.repeat(sizes)
        return summed([entries], self._items).listed()

    @cached_property
    def is_title(self) -> bool:
        """Whether the text looks like a title: most of its words stand in titles, and one item has most of them.

        Words are weighed by how rare they are.
        """
        rows, shares = self._flat
        weights = shares * self._index.rarity(rows, self._items)
        if not len(rows) or weights @ self._index.titled[rows] < _TITLED * weights.sum():
            return False
        best = int(self.boosts.positions[np.argmax(self.boosts.values)])
        return self.cover(best)[0] >= _COVERED

    def cover(self, item: int) -> tuple[float, int]:
        """Share of the words, weighed by how rare they are, that an item has, and how many these are.

        Words of which the index cannot tell whether the item has them do not count.
        """
        had, whole, count = 0.0, 0.0, 0
        for rows, shares in self._words:
            rarity = self._rarity(rows)
            found = [share for row, share in zip(rows, shares, strict=True) if self._index.postings.holds(row, item)]
            if not found and any(self._index.may_have(row, item) for row in rows):
                continue
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

    def _rarity(self, rows: tuple[int, ...]) -> float:
        """Of a word that is or is near these; that of a word that no item has where there are none."""
        if not rows:
            return float(np.log1p(self._items))
        return float(self._index.rarity(np.array(rows), self._items).max())
