"""From which cosine on a text is an item: few titles of other items are as near."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.names import NEVER
from server.catalogue.words import split_words

Vectors = NDArray[np.float32]

_TITLES = 1_000  # titles that are compared with all items
_QUANTILE = 0.95  # of the titles, whose nearest other item is no nearer than the threshold
_LEAST = 0.6


def same_item_threshold(titles: Vectors, items: Vectors, names: list[str], seed: int) -> float:
    """The cosine; `NEVER` where there are no sentence vectors.

    Args:
        titles: sentence vectors of the titles, [items, s].
        items: those of the whole texts, [items, s].
        names: the titles, [items]; items of one title are not told apart.
        seed: of the draw of titles.
    """
    if not items.shape[1] or len(items) < 2:
        return NEVER
    plain = np.array([" ".join(split_words(name)) for name in names])
    drawn = np.random.default_rng(seed).permutation(len(items))[:_TITLES]
    nearest = np.empty(len(drawn))
    for place, item in enumerate(drawn.tolist()):
        cosines = items @ titles[item]
        cosines[plain == plain[item]] = -1
        nearest[place] = cosines.max()
    return max(_LEAST, float(np.quantile(nearest, _QUANTILE)))
