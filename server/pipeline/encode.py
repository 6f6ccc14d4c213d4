"""Texts to vectors: from the cache, or encoded once for all requests of the batch that have the same text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from server.pipeline.request_state import TextState
from server.pipeline.stages import Stages

Vector = NDArray[np.float32]


def encode(stages: Stages, batch: Sequence[TextState]) -> None:
    """Fill in the vectors of every text; a text that the model cannot encode is the error of its requests."""
    missing: dict[bytes, Sequence[int]] = {}
    hits = wanted = 0
    for state in batch:
        for n, key in enumerate(state.keys):
            if state.vectors[n] is None:
                state.vectors[n] = stages.cache.get(key)
            if state.vectors[n] is None:
                missing[key] = state.rows[n]
                wanted += 1
            else:
                hits += 1
    _count(stages, hits, wanted - len(missing), len(missing))
    if missing:
        _run(stages, batch, missing)


def _run(stages: Stages, batch: Sequence[TextState], missing: dict[bytes, Sequence[int]]) -> None:
    rows = list(missing.values())
    vectors, seconds = stages.encoder.run(rows, [len(row) for row in rows])
    found = dict(zip(missing, zip(vectors, seconds, strict=True), strict=True))
    for key, (vector, _) in found.items():
        if not isinstance(vector, Exception):
            stages.cache.put(key, vector)
    for state in batch:
        for n, key in enumerate(state.keys):
            if state.vectors[n] is None:
                vector, took_s = found[key]
                state.was_cached = False
                state.compute_s = max(state.compute_s, took_s)  # batches of one request run side by side
                if isinstance(vector, Exception):
                    state.error = vector
                else:
                    state.vectors[n] = vector


def _count(stages: Stages, hits: int, joined: int, misses: int) -> None:
    if stages.lookups:
        for source, texts in (("hit", hits), ("joined", joined), ("miss", misses)):
            if texts:
                stages.lookups.looked_up(source, texts)
