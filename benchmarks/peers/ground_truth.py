"""The right rankings, computed offline with the bundle's graph, tokenizer and item vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.peers.servers.job import TOP
from swiftrec.server.catalogue.catalogue import VECTORS
from swiftrec.server.catalogue.items import ItemTable
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.networks import EncoderModel, EventKind, RankerModel, UserSequence, ranker_half
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer

_TOLERANCE = 3e-4  # of the largest score: vectors may differ by 1e-4, so nearly equal items may be swapped
_TIE = 1e-5
_BATCH = 16


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The scores of all items for each text, and the right rankings.

    Attributes:
        values: scores, [texts, items].
        best: the ten highest scores of each text, descending, [texts, 10].
        scale: the largest absolute score of each text, [texts].
        positions: item id -> its column in `values`.
    """

    values: NDArray[np.float32]
    best: NDArray[np.float32]
    scale: NDArray[np.float32]
    positions: dict[str, int]

    @classmethod
    def of(cls, values: NDArray[np.float32], ids: Sequence[str]) -> GroundTruth:
        """From scores [texts, items] and the ids of the items."""
        best = -np.sort(-values, axis=1)[:, :TOP]
        return cls(values, best, np.abs(values).max(axis=1), {item: n for n, item in enumerate(ids)})

    def is_right(self, text: int, ids: Sequence[str]) -> bool:
        """Whether these are the ten best items of a text, except for items with equal scores."""
        scores = self._scores(text, ids)
        if scores is None or len(set(ids)) != self.best.shape[1]:
            return False
        return bool((np.abs(scores - self.best[text]) <= _TOLERANCE * self.scale[text]).all())

    def is_same(self, text: int, ids: Sequence[str], other_ids: Sequence[str]) -> bool:
        """Whether two rankings are the same, except for items with equal scores."""
        if ids == other_ids:
            return True
        first, second = self._scores(text, ids), self._scores(text, other_ids)
        if first is None or second is None or first.shape != second.shape:
            return False
        return bool((np.abs(first - second) <= _TIE * self.scale[text]).all())

    def _scores(self, text: int, ids: Sequence[str]) -> NDArray[np.float32] | None:
        positions = [self.positions.get(item, -1) for item in ids]
        return self.values[text, positions] if positions and min(positions) >= 0 else None


def right_rankings(bundle: Bundle, encoder: Path, texts: Sequence[str]) -> GroundTruth:
    """Encode each text in a batch of similar length, rank it as a query without history, score the catalogue."""
    manifest = bundle.manifest
    rows = Tokenizer.load(bundle.folder / "tokenizer.json", manifest.max_tokens).encode(texts)
    model = EncoderModel(open_session(encoder, "cpu"))
    ranker = RankerModel(open_session(bundle.folder / "ranker.onnx", "cpu"), manifest.dimensions)
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    users = np.zeros((len(rows), manifest.dimensions), dtype=np.float32)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        vectors = [ranker_half(vector, manifest.dimensions) for vector in model.run([rows[n] for n in batch])]
        users[batch] = ranker.run([UserSequence([vector], [EventKind.QUERY]) for vector in vectors])
    items = np.load(bundle.folder / VECTORS, allow_pickle=False)
    return GroundTruth.of(users @ items.T, [item.id for item in ItemTable.load(bundle.folder)])
