"""Texts that name an item: an event "Toy Story (1995)" is that item, known to the memory and left out like its id.

First by name: the same words as an item's title or text, if only one item has them. Else by meaning: of the items that
share most of the text's words the one whose sentence vector is nearest, if it is nearer than items of this catalogue
are to the titles of others (the threshold is measured when the catalogue is made).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.words import Words

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

NEVER = 2.0  # a threshold that no cosine reaches
_CANDIDATES = 8  # items by words that are compared by meaning


class Names:
    """Which item a text is.

    Args:
        words: the catalogue's index of words.
        sentences: sentence vectors of the items' texts, float32 [items, s].
        threshold: cosine from which on a text is the item.
    """

    def __init__(self, words: Words, sentences: Vectors, threshold: float) -> None:
        self._words, self._sentences, self._threshold = words, sentences, threshold

    def by_name(self, text: str) -> int | None:
        """Position of the one item that has these words as its title or text."""
        return self._words.named_by(text)

    def by_meaning(self, text: str, sentence: Vector) -> int | None:
        """Position of the item that a text of this sentence vector [s] means; None if none is near enough."""
        if self._threshold >= NEVER:
            return None
        near = self._words.match(text, len(self._sentences))
        if not len(near.positions):
            return None
        best = near.positions[np.argsort(-near.values, kind="stable")[:_CANDIDATES]]
        cosines = self._sentences[best] @ sentence
        nearest = int(np.argmax(cosines))
        return int(best[nearest]) if cosines[nearest] >= self._threshold else None
