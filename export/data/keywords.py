"""Keywords of items: rare words of the text that are neither in the title nor in an attribute.

They are split into two halves, the same for every catalogue: one for queries of training, one for those of evaluation.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from swiftrec.export.data.dataset import DatasetItem

MIN_ITEMS = 2  # whose texts have a word; a rarer word may be a name or a typo
_MAX_SHARE = 0.05  # of the texts; a more frequent word says little
_MAX_TEXTS = 20_000  # texts whose words are counted, evenly spaced
_MIN_LETTERS = 4
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Keywords:
    """The keywords of a catalogue; `counts` are the numbers of counted texts with each one."""

    counts: dict[str, int]

    @classmethod
    def of(cls, items: Sequence[DatasetItem]) -> Keywords:
        """Count the words of the items' texts."""
        sampled = range(0, len(items), -(-len(items) // _MAX_TEXTS))
        counts: Counter[str] = Counter()
        for n in sampled:
            counts.update(_own_words(items[n]))
        limit = max(MIN_ITEMS, int(_MAX_SHARE * len(sampled)))
        return cls({word: count for word, count in counts.items() if MIN_ITEMS <= count <= limit})

    def of_item(self, item: DatasetItem, *, for_training: bool) -> list[str]:
        """The item's keywords of one half, the rarest first."""
        own = (w for w in _own_words(item) if w in self.counts and is_for_training(w) == for_training)
        return sorted(own, key=lambda word: (self.counts[word], word))


def is_for_training(word: str) -> bool:
    """Whether queries for training use this word; those for evaluation use the others."""
    return zlib.crc32(word.encode()) % 2 == 0


def words_of(text: str) -> set[str]:
    """The words of a text in lower case."""
    return {word.lower() for word in _WORD.findall(text)}


def _own_words(item: DatasetItem) -> set[str]:
    """Words of the text that are neither in the title nor in an attribute value."""
    known = words_of(item.title).union(*(words_of(v) for values in item.attributes.values() for v in values))
    return {word for word in words_of(item.text) - known if len(word) >= _MIN_LETTERS}
