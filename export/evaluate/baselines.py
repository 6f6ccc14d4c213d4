"""What any model must be compared with. Each gives scores float32 [users, items] from histories oldest first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Histories = list[NDArray[np.int64]]

_RECENT = 10  # last events of each user that "recent popularity" counts
_EASE_PENALTY = 500.0
_KNN_NEIGHBOURS = 100
_TRANSITION_DECAY = 0.6
_TRANSITION_EVENTS = 10


def all_baselines(histories: Histories, texts: NDArray[np.float32]) -> dict[str, Scores]:
    """Name -> scores; `texts` are frozen unit vectors of the items [items, hidden]."""
    items = len(texts)
    matrix = np.zeros((len(histories), items), dtype=np.float32)
    for row, history in zip(matrix, histories, strict=True):
        row[history] = 1
    return {
        "popularity": _popularity(histories, items),
        "recent popularity": _popularity([h[-_RECENT:] for h in histories], items),
        "item kNN": _item_knn(matrix),
        "EASE": _ease(matrix),
        "transitions": _transitions(histories, items),
        "frozen encoder": ((matrix @ texts) @ texts.T).astype(np.float32),
    }


def _popularity(histories: Histories, items: int) -> Scores:
    counts = np.bincount(np.concatenate(histories), minlength=items).astype(np.float32)
    scores: Scores = np.broadcast_to(counts, (len(histories), items))
    return scores


def _item_knn(matrix: Scores) -> Scores:
    """Cosine between item columns, the nearest ones kept (Sarwar et al., WWW 2001)."""
    norms = np.linalg.norm(matrix, axis=0) + 1e-9
    cosine = (matrix.T @ matrix) / norms[:, None] / norms[None]
    np.fill_diagonal(cosine, 0)
    keep = min(_KNN_NEIGHBOURS, len(cosine) - 1)
    cosine[cosine < np.partition(cosine, -keep, axis=1)[:, -keep][:, None]] = 0
    scores: Scores = matrix @ cosine.T
    return scores


def _ease(matrix: Scores) -> Scores:
    """Closed-form linear autoencoder (Steck, WWW 2019)."""
    gram = matrix.T @ matrix
    gram[np.diag_indices_from(gram)] += _EASE_PENALTY
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scores: Scores = (matrix @ weights).astype(np.float32)
    return scores


def _transitions(histories: Histories, items: int) -> Scores:
    """How often an item came next, summed over the last events with a decay; popularity breaks ties."""
    counts = np.zeros((items, items), dtype=np.float32)
    for history in histories:
        np.add.at(counts, (history[:-1], history[1:]), 1)
    chance = counts / (counts.sum(1, keepdims=True) + 5)
    scores = _popularity(histories, items) * 1e-9
    for row, history in zip(scores, histories, strict=True):
        for age, item in enumerate(history[::-1][:_TRANSITION_EVENTS]):
            row += _TRANSITION_DECAY**age * chance[item]
    return scores
