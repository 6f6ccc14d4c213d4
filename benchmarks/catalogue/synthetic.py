"""Synthetic catalogues of any size: a bundle with the real models, and items near the real items.

An item is a real one with noise of the catalogue's covariance, so that items are as dense, and as uneven in length and
direction, as many more real items would be; isotropic noise would fill 128 dimensions, the real vectors fill about 25.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions, Scores, Vectors
from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.sparse import SparseRows
from swiftrec.server.catalogue.words import Words
from swiftrec.server.models.bundle import MANIFEST, RANKER, SENTENCES, Bundle, file_hash
from swiftrec.server.parts import TABLES

KEEP, SHARES = "keep", (50, 10, 1)  # an attribute, and the percentages of the items that have each of its values
_NOISE = 0.5  # of the catalogue's own spread
_CHUNK = 65_536  # items at once
_TASTES, _NEAR = 3, 50  # of one user, and the real items that count as near one
_MOST_EVENTS = 32
_HEAD, _POSTINGS = 8_192, 4_000  # items that have neighbours, and items of a word: the limits of an export


def make_bundle(real: Bundle, folder: Path, items: int, seed: int) -> Positions:
    """Write a bundle of `items` items with the models of the real one; return the real item behind each."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    rows = _rows(real)
    bases = np.resize(random.permutation(len(rows)), items)
    keeps = random.random((items, len(SHARES))) < np.array(SHARES) / 100
    with (folder / ITEMS).open("wb") as file:
        file.writelines(_lines(rows, bases, keeps))
    np.save(folder / VECTORS, around(_array(real, VECTORS), bases, random))
    arrays = [VECTORS]
    if real.manifest.sentence_dimensions:
        arrays.append(SENTENCES)
        sentences = around(_array(real, SENTENCES), bases, random)
        np.save(folder / SENTENCES, sentences / np.linalg.norm(sentences, axis=1, keepdims=True))
    _tables(real, folder, bases, random)
    models = ["tokenizer.json", RANKER, *real.manifest.variants.values()]
    for name in models:
        shutil.copyfile(real.folder / name, folder / name)
    files = {name: file_hash(folder / name) for name in (ITEMS, *arrays, *TABLES, *models)}
    manifest = real.manifest.model_copy(update={"name": f"synthetic-{items}", "files": files}).sealed()
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return bases


def around(vectors: Vectors, bases: Positions, random: np.random.Generator) -> Vectors:
    """A vector near `vectors[base]` for each base, float32 [bases, dimensions]."""
    root = _NOISE * np.linalg.cholesky(np.cov(vectors.T) + 1e-9 * np.eye(vectors.shape[1])).T.astype(np.float32)
    result = np.empty((len(bases), vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(bases), _CHUNK):
        part = bases[start : start + _CHUNK]
        noise = random.standard_normal((len(part), vectors.shape[1]), dtype=np.float32)
        result[start : start + _CHUNK] = vectors[part] + noise @ root
    return result


def histories(real: Bundle, bases: Positions, number: int, seed: int) -> list[list[str]]:
    """Item ids of users with a few tastes each: items near a real one, up to 32 of them."""
    random = np.random.default_rng(seed)
    vectors = _array(real, VECTORS)
    near = np.argsort(-(vectors @ vectors.T), axis=1)[:, :_NEAR]
    home = np.argsort(bases, kind="stable")
    first = np.searchsorted(bases[home], np.arange(len(vectors)))
    last = np.searchsorted(bases[home], np.arange(len(vectors)), side="right")

    def history() -> list[str]:
        tastes = near[random.integers(len(vectors), size=_TASTES)]
        events = tastes[random.integers(_TASTES, size=(size := random.integers(1, _MOST_EVENTS + 1)))]
        near_bases = [int(base) for base in events[np.arange(size), random.integers(_NEAR, size=size)]]
        return [str(home[random.integers(first[base], last[base])]) for base in near_bases if last[base] > first[base]]

    return [history() for _ in range(number)]


def _tables(real: Bundle, folder: Path, bases: Positions, random: np.random.Generator) -> None:
    """Memory and words: each reference to a real item becomes one to an item made from it."""
    size = len(_array(real, VECTORS))
    origins = _Origins.of(bases, size)
    memory, words = Memory.load(real.folder, size), Words.load(real.folder, size)
    neighbours = np.flatnonzero(np.arange(len(bases)) < _HEAD)
    synthetic = Memory(
        _copied(memory.transitions, bases, np.arange(len(bases)), origins, random),
        _copied(memory.neighbours, bases, neighbours, origins, random),
    )
    synthetic.save(folder)
    nameless = replace(words, names=words.names[:0], named=words.named[:0])  # several items have each title
    postings, often = _spread(words.postings, origins)
    replace(nameless, postings=postings, often=often).save(folder)


@dataclass(frozen=True, slots=True)
class _Origins:
    """The items made from each real one: `order[first[base] : last[base]]`."""

    order: Positions
    first: Positions
    last: Positions

    @classmethod
    def of(cls, bases: Positions, real_items: int) -> _Origins:
        order = np.argsort(bases, kind="stable")
        first, last = (np.searchsorted(bases[order], np.arange(real_items), side=side) for side in ("left", "right"))
        return cls(order, first, last)


def _copied(
    rows: SparseRows, bases: Positions, filled: Positions, origins: _Origins, random: np.random.Generator
) -> SparseRows:
    """The rows of the real items for the items `filled`, and empty rows for the others."""
    sizes = np.zeros(len(bases), dtype=np.int64)
    positions, weights = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for start in range(0, len(filled), _CHUNK):
        part = filled[start : start + _CHUNK]
        columns, values, row_sizes = rows.gather(bases[part])
        is_made = origins.last[columns] > origins.first[columns]  # a small catalogue has no item made from some
        row = np.repeat(np.arange(len(part)), row_sizes)[is_made]
        columns, sizes[part] = columns[is_made], np.bincount(row, minlength=len(part))
        places = origins.first[columns] + random.integers(origins.last[columns] - origins.first[columns])
        items = origins.order[places]
        order = np.lexsort((items, row))
        positions.append(items[order].astype(np.int32))
        weights.append(values[is_made][order])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return SparseRows(starts, np.concatenate(positions), np.concatenate(weights))


def _spread(postings: SparseRows, origins: _Origins) -> tuple[SparseRows, NDArray[np.int32]]:
    """For each word the items made from those that have it (the heaviest if there are many), and their number."""
    often = np.zeros(len(postings), dtype=np.int32)
    rows: list[tuple[Positions, Scores]] = []
    for row in range(len(postings)):
        bases, weights, _ = postings.gather(np.array([row]))
        order = np.argsort(-weights, kind="stable")
        lists = [origins.order[origins.first[base] : origins.last[base]] for base in bases[order].tolist()]
        often[row] = sum(map(len, lists))
        items = np.concatenate(lists)[:_POSTINGS]
        values = np.repeat(weights[order], [len(list_) for list_ in lists])[:_POSTINGS]
        by_item = np.argsort(items, kind="stable")
        rows.append((items[by_item], values[by_item]))
    starts = np.cumsum([0, *(len(items) for items, _ in rows)])
    every = np.concatenate([items for items, _ in rows]).astype(np.int32)
    return SparseRows(starts, every, np.concatenate([values for _, values in rows])), often


def _lines(rows: Sequence[dict[str, Any]], bases: Positions, keeps: NDArray[np.bool_]) -> Iterator[bytes]:
    for number, (base, flags) in enumerate(zip(bases.tolist(), keeps.tolist(), strict=True)):
        row = rows[base]
        values = [str(share) for share, has_value in zip(SHARES, flags, strict=True) if has_value]
        more = {"id": str(number), "attributes": row["attributes"] | ({KEEP: values} if values else {})}
        yield json.dumps(row | more, ensure_ascii=False).encode() + b"\n"


def _rows(real: Bundle) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (real.folder / ITEMS).read_bytes().split(b"\n") if line]


def _array(real: Bundle, name: str) -> Vectors:
    vectors: Vectors = np.load(real.folder / name, allow_pickle=False)
    return vectors
