"""The cosine from which on a text counts as an item's title: few titles of other items are as near."""

from __future__ import annotations

import numpy as np

from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.history import NEVER
from swiftrec.server.catalogue.splitting import split_words

_MAX_TITLES = 1_000  # that are compared with all items
_QUANTILE = 0.95  # of the cosines of titles and their nearest other items
_MIN_THRESHOLD = 0.6
_BLOCK_ITEMS = 8_192  # 33 MB of cosines


def same_item_threshold(titles: Vectors, items: Vectors, names: list[str], seed: int) -> float:
    """The cosine; `NEVER` without sentence vectors.

    Args:
        titles: sentence vectors of the titles, [items, s].
        items: those of the whole texts, [items, s].
        names: the titles, [items]; items with the same title count as one.
        seed: of the draw of titles.
    """
    if not items.shape[1] or len(items) < 2:
        return NEVER
    numbers: dict[str, int] = {}
    plain = (" ".join(split_words(name)) for name in names)
    alike = np.fromiter((numbers.setdefault(name, len(numbers)) for name in plain), np.int64, len(items))
    drawn = np.random.default_rng(seed).permutation(len(items))[:_MAX_TITLES]
    compared, nearest = titles[drawn], np.full(len(drawn), -1.0)
    for start in range(0, len(items), _BLOCK_ITEMS):
        part = slice(start, start + _BLOCK_ITEMS)
        cosines = compared @ items[part].T
        cosines[alike[drawn][:, None] == alike[part]] = -1
        nearest = np.maximum(nearest, cosines.max(axis=1))
    return max(_MIN_THRESHOLD, float(np.quantile(nearest, _QUANTILE)))
