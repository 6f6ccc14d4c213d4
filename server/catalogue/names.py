"""Texts that name an item: an event "Toy Story (1995)" is that item, known to the memory and left out like its id.

First by name: the same words as an item's title or text, if only one item has them. A text whose words stand in titles
may then be an item by words: one item has nearly all of them, and no other comes close, as with a mistyped title. Or by
meaning: of the items that share most of its words the one whose sentence vector is nearest, if it is nearer than items
of this catalogue are to the titles of others (the threshold is measured when the catalogue is made).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.words import Words

Vector = NDArray[np.float32]
Vectors = NDArray[np.float32]

NEVER = 2.0  # a threshold that no cosine reaches
_CANDIDATES = 8  # items by words that are compared by meaning
_SHARED = 0.5  # of the text's words that an item must have to be meant
_WORDS, _COVERED = 2, 0.75  # words that an item must have, and the share of the text's words
_APART = 0.8  # of the first item's match that the second may have


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
        """Position of the item that a text means, by most of its words or its sentence vector [s]; None if none is."""
        if not self._words.is_title(text, len(self._sentences)):
            return None
        near = self._words.match(text, len(self._sentences))
        if not len(near.positions):
            return None
        order = np.argsort(-near.values, kind="stable")[:_CANDIDATES]
        best, values = near.positions[order], near.values[order]
        if len(best) == 1 or values[1] <= _APART * values[0]:
            share, words = self._words.cover(text, int(best[0]), len(self._sentences))
            if words >= _WORDS and share >= _COVERED and self._words.numbered_alike(text, int(best[0])):
                return int(best[0])
        if self._threshold >= NEVER:
            return None
        cosines = self._sentences[best] @ sentence
        nearest = int(np.argmax(cosines))
        item = int(best[nearest])
        is_near = cosines[nearest] >= self._threshold and self._words.numbered_alike(text, item)
        return item if is_near and self._words.cover(text, item, len(self._sentences))[0] >= _SHARED else None
