"""The tables that a bundle has beside its vectors, for tests that write bundles or engines by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.blend.words import make_words
from swiftrec.server.catalogue.blend import QUERIES, Blend, BlendRow, Scoring, Weights
from swiftrec.server.catalogue.history import NEVER, Names
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.sparse import SparseRows


def write_tables(folder: Path, titles: Sequence[str], texts: Sequence[str] | None = None) -> list[str]:
    """Write an empty memory and the words of these items; the names of the files."""
    before = {path.name for path in folder.iterdir()}
    Memory.empty(len(titles)).save(folder)
    make_words(titles, titles if texts is None else texts).save(folder)
    return sorted({path.name for path in folder.iterdir()} - before)


def scoring(titles: Sequence[str], memory: Memory | None = None, weights: Weights | None = None) -> Scoring:
    """A score of items with these titles, with the same weights for every request; without weights the ranker alone."""
    rows = [] if weights is None else [BlendRow(query, 0, weights) for query in QUERIES]
    known = memory or Memory.empty(len(titles))
    return Scoring(Blend(rows), known, make_words(titles, titles), len(titles))


def names(titles: Sequence[str], sentences: NDArray[np.float32], threshold: float = NEVER) -> Names:
    """Which item a text is; by its title alone unless there is a threshold."""
    return Names(make_words(titles, titles), sentences, threshold, titles.__getitem__)


def random_memory(items: int, random: np.random.Generator, entries: int = 8) -> Memory:
    """Tables with `entries` random entries in each row, and neighbours' weights of either sign."""
    rows = np.repeat(np.arange(items), entries)
    positions = np.concatenate([random.permutation(items)[:entries] for _ in range(items)])
    transitions = SparseRows.of(rows, positions, random.random(len(rows)) / entries, items)
    return Memory(transitions, SparseRows.of(rows, positions, random.normal(size=len(rows)), items))
