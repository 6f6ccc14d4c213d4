"""What the library of an adopted checkpoint says of some texts: a bundle without interactions is compared with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from swiftrec.export.checkpoints.original import Original
from swiftrec.export.data.dataset import Item
from swiftrec.export.evaluate.metrics import best

_MAX_ITEMS = 10_000  # whose texts are encoded once more; of a larger catalogue every n-th is compared
_FACTS, _ARRAYS = "reference.json", "reference.npz"


@dataclass(frozen=True, slots=True)
class Reference:
    """Vectors and rankings by the library that a checkpoint was made with.

    Args:
        library: its name and version.
        texts: no training reads them.
        vectors: of the texts, unit length, float32 [texts, width].
        items: positions in the catalogue of the items that were compared, int64 [items], ascending.
        top: the best ten of `items` for each text, as positions in `items`, int64 [texts, at most 10].
    """

    library: str
    texts: list[str]
    vectors: NDArray[np.float32]
    items: NDArray[np.int64]
    top: NDArray[np.int64]

    @classmethod
    def of(cls, original: Original, texts: list[str], catalogue: Sequence[Item]) -> Self:
        """Encode `texts` and rank the items of `catalogue` for them."""
        items = np.arange(0, len(catalogue), -(-len(catalogue) // _MAX_ITEMS), dtype=np.int64)
        shown = [catalogue[int(n)] for n in items]
        scores = original.scores(texts, [item.text for item in shown], [item.id for item in shown]).numpy()
        vectors = functional.normalize(original.encode(texts), dim=-1).numpy()
        return cls(original.library, texts, vectors, items, np.stack([best(row) for row in scores]))

    def save(self, folder: Path) -> None:
        """Write `reference.json` and `reference.npz`."""
        facts = {"library": self.library, "texts": self.texts}
        (folder / _FACTS).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
        np.savez(folder / _ARRAYS, vectors=self.vectors, items=self.items, top=self.top)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        with np.load(folder / _ARRAYS, allow_pickle=False) as arrays:
            return cls(**facts, **{name: arrays[name] for name in ("vectors", "items", "top")})
