"""The parts of a score except the ranker, as stage `blend` fitted them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.evaluate.recommender import Retrieval
from swiftrec.export.schema.blend import BlendRecord
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.blend import Blend, Scoring
from swiftrec.server.catalogue.history import Names
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.words import Words


def load_retrieval(
    folder: Path, memory: Memory, titles: Sequence[str], sentences: Vectors, counts: NDArray[np.int64]
) -> Retrieval:
    """The parts of a score except the ranker: words and weights of stage `blend`, the others as given.

    Args:
        folder: of stage `blend`.
        memory: the tables of the stage, or others that were fitted in the same way.
        titles: of the items.
        sentences: sentence vectors of the items' texts, float32 [items, s].
        counts: number of events of each item, 0 for new ones, [items].
    """
    record, items = BlendRecord.load(folder), len(counts)
    words = Words.load(folder, items)
    scoring = Scoring(Blend.read(record.rows), memory, words, items)
    names = Names(words, sentences, record.same_item, titles.__getitem__)
    return Retrieval(scoring, names, sentences, counts)
