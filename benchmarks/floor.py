"""The floor: the same bundle, the same texts, offline, sorted by length, in the best batches, one thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from server.models.bundle import load_bundle
from server.models.encoder import EncoderModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

BATCHES = (1, 4, 8, 16, 32)


class Floor:
    """Encodes texts as cheaply as is possible with this bundle."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder)
        self._tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
        self._model = EncoderModel(open_session(bundle.encoder("cpu", None)))

    def cpu_s(self, texts: Sequence[str], batch: int) -> float:
        """CPU seconds per text, tokenisation included, sorted and `batch` at a time."""
        before = time.process_time()
        rows = sorted(self._tokenizer.encode(texts), key=len)
        for start in range(0, len(rows), batch):
            self._model.run(rows[start : start + batch])
        return (time.process_time() - before) / len(texts)

    def best_batch(self, texts: Sequence[str]) -> int:
        """The batch size that costs least."""
        self.cpu_s(texts[:64], 8)
        return min(BATCHES, key=lambda batch: self.cpu_s(texts, batch))
