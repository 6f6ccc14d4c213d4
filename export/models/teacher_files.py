"""The arrays that stage `finetune` leaves in its folder, for all stages after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.data.text_variants import TextRows, TextVariant
from swiftrec.server.arrays import Vectors

ITEM_VECTORS = "item_vectors.npy"
_POOLED, _UNTUNED = "pooled.npy", "untuned.npy"


def save_item_vectors(items: Tensor, folder: Path) -> None:
    """Write the teacher's item vectors, float32 [items, d]."""
    _save(items, folder / ITEM_VECTORS)


def load_item_vectors(folder: Path) -> Vectors:
    """The teacher's item vectors, float32 [items, d], mapped from the file."""
    vectors: Vectors = np.load(folder / ITEM_VECTORS, mmap_mode="r", allow_pickle=False)
    return vectors


def save_pooled(pooled: Tensor, folder: Path) -> None:
    """Write the tuned BERT's pooled vectors of all texts, float32 [texts, hidden], rows of `Texts.all`."""
    _save(pooled, folder / _POOLED)


def load_pooled(folder: Path) -> Tensor:
    """Pooled vectors of all texts, [texts, hidden], mapped from the file; writing into them changes no file."""
    return torch.from_numpy(np.load(folder / _POOLED, mmap_mode="c", allow_pickle=False))


def save_untuned(pooled: Tensor, folder: Path) -> None:
    """Write the pooled vectors of the items' texts before BERT was tuned, float32 [items, hidden]."""
    _save(pooled, folder / _UNTUNED)


def load_untuned(folder: Path, items: int) -> Tensor:
    """Pooled vectors of the items' texts before BERT was tuned, [items, hidden], mapped; `items` is their number."""
    path = folder / _UNTUNED
    if not path.exists():
        return load_pooled(folder)[TextRows(items).of(TextVariant.FULL)]
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _save(tensor: Tensor, path: Path) -> None:
    np.save(path, tensor.detach().cpu().numpy(), allow_pickle=False)
