"""The sentence space: unit vectors of texts by the checkpoint as it was before fine-tuning, reduced by a PCA.

Fine-tuning makes BERT encode what users choose together, and loses some of the checkpoint's knowledge of meaning. So
these vectors are computed from the pooled vectors before it. The PCA is uncentred (the right singular
vectors of the unit vectors), since cosines are compared: on MovieLens 128 of MiniLM's 384 dimensions put the item of
its exact title first for .996 of the items (.999 with all of them), 64 for .983.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swiftrec.server.arrays import Vectors

MAX_SENTENCE_DIMENSIONS = 128
SENTENCES, SENTENCE_MAP = "sentences.npy", "sentence_map.npy"
_SAMPLE_ROWS = 50_000  # texts that a linear map is fitted on
_CHUNK_ROWS = 16_384  # texts that are reduced at a time


def fit_sentence_map(pooled: Tensor, seed: int) -> Tensor:
    """The matrix [hidden, min(128, hidden)] that keeps the most of the unit vectors of `pooled` [texts, hidden]."""
    rows = torch.from_numpy(sample_rows(len(pooled), seed))
    units = functional.normalize(pooled[rows].double().cpu(), dim=-1)
    _, axes = torch.linalg.eigh(units.T @ units)  # ascending
    strongest: Tensor = axes.flip(1)[:, :MAX_SENTENCE_DIMENSIONS].float().contiguous()
    return strongest


def sample_rows(texts: int, seed: int) -> NDArray[np.int64]:
    """Positions of the texts that a linear map is fitted on, ascending: all, or 50,000 of very many."""
    if texts <= _SAMPLE_ROWS:
        return np.arange(texts)
    return np.sort(np.random.default_rng(seed).permutation(texts)[:_SAMPLE_ROWS])


def sentence_vectors(pooled: Tensor, sentence_map: Tensor) -> Tensor:
    """Unit vectors [..., d2] of the checkpoint's pooled vectors [..., hidden]; `sentence_map` is [hidden, d2]."""
    return functional.normalize(pooled @ sentence_map, dim=-1)


def save_sentences(pooled: Tensor, folder: Path, seed: int) -> None:
    """Write `sentence_map.npy` (float32 [hidden, d2]) and `sentences.npy` (float32 [texts, d2]).

    Args:
        pooled: the untuned checkpoint's vectors of all texts, [texts, hidden].
        folder: the stage's.
        seed: draws the texts that the PCA is fitted on if there are very many.
    """
    sentence_map = fit_sentence_map(pooled, seed)
    shape = (len(pooled), sentence_map.shape[1])
    vectors = np.lib.format.open_memmap(folder / SENTENCES, "w+", np.float32, shape)
    for start in range(0, len(pooled), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        vectors[rows] = sentence_vectors(pooled[rows].cpu(), sentence_map).numpy()
    vectors.flush()
    np.save(folder / SENTENCE_MAP, sentence_map.numpy(), allow_pickle=False)


def load_sentence_map(folder: Path) -> Tensor | None:
    """The matrix of the stage in `folder`; None for an adopted recommender, which has no sentence vectors."""
    path = folder / SENTENCE_MAP
    return torch.from_numpy(np.load(path, allow_pickle=False)) if path.exists() else None


def load_sentences(folder: Path, texts: int) -> NDArray[np.float32]:
    """Sentence vectors of all texts, float32 [texts, d2], mapped; [texts, 0] for an adopted recommender."""
    path = folder / SENTENCES
    if not path.exists():
        return np.empty((texts, 0), np.float32)
    vectors: Vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    return vectors
