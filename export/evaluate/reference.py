"""Vectors and rankings of an adopted checkpoint's own library: the reference for a bundle without interactions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.evaluate.checkpoint_library import ReferenceModel
from swiftrec.export.evaluate.metrics import best
from swiftrec.server.arrays import Positions, Vectors

_MAX_ITEMS = 10_000  # are compared; of a larger catalogue every n-th
_FIELDS, _ARRAYS = "reference.json", "reference.npz"


@dataclass(frozen=True, slots=True)
class Reference:
    """Vectors and rankings by a checkpoint's own library.

    Args:
        library: its name and version.
        texts: texts that no training reads.
        vectors: unit vectors of the texts, float32 [texts, width].
        items: positions in the catalogue of the compared items, int64 [items], ascending.
        top: the best ten of `items` for each text, as positions in `items`, int64 [texts, at most 10].
    """

    library: str
    texts: list[str]
    vectors: Vectors
    items: Positions
    top: NDArray[np.int64]

    @classmethod
    def make(cls, model: ReferenceModel, texts: list[str], catalogue: Sequence[DatasetItem]) -> Self:
        """Encode `texts` and rank the items of `catalogue` for them."""
        items = np.arange(0, len(catalogue), -(-len(catalogue) // _MAX_ITEMS), dtype=np.int64)
        shown = [catalogue[int(n)] for n in items]
        scores = model.scores(texts, [item.text for item in shown], [item.id for item in shown]).numpy()
        vectors = functional.normalize(model.encode(texts), dim=-1).numpy()
        return cls(model.library, texts, vectors, items, np.stack([best(row) for row in scores]))

    def save(self, folder: Path) -> None:
        """Write `reference.json` and `reference.npz`."""
        fields = {"library": self.library, "texts": self.texts}
        (folder / _FIELDS).write_text(json.dumps(fields, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / _ARRAYS, vectors=self.vectors, items=self.items, top=self.top)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        fields = json.loads((folder / _FIELDS).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            return cls(**fields, **{name: arrays[name] for name in ("vectors", "items", "top")})
