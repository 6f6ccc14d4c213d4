"""Catalogues of any size around a real one: a bundle with the real models, and items near the real items.

An item is a real one with noise of the catalogue's own covariance, so that items are as crowded, and as uneven in
length and direction, as many more items of the same kind would be; isotropic noise would fill 128 dimensions where the
real vectors fill about 25.
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

from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS
from swiftrec.server.catalogue.sparse import Memory, SparseRows
from swiftrec.server.catalogue.words import Words
from swiftrec.server.models.bundle import MANIFEST, RANKER, SENTENCES, Bundle, file_hash
from swiftrec.server.parts import TABLES

KEEP, SHARES = "keep", (50, 10, 1)  # an attribute, and the percentages of the items that have each of its values
_NOISE = 0.5  # of the catalogue's own spread
_CHUNK = 65_536  # items at once
_TASTES, _NEAR = 3, 50  # of one user, and the real items that count as near one
_MOST_EVENTS = 32
_HEAD, _POSTINGS = 8_192, 4_000  # items that have neighbours, and items of a word: the limits of an export

Floats = NDArray[np.float32]
Places = NDArray[np.int64]


def make_bundle(real: Bundle, folder: Path, items: int, seed: int) -> Places:
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


def around(vectors: Floats, bases: Places, random: np.random.Generator) -> Floats:
    """A vector near `vectors[base]` for each base, float32 [bases, dimensions]."""
    root = _NOISE * np.linalg.cholesky(np.cov(vectors.T) + 1e-9 * np.eye(vectors.shape[1])).T.astype(np.float32)
    made = np.empty((len(bases), vectors.shape[1]), dtype=np.float32)
    for start in range(0, len(bases), _CHUNK):
        part = bases[start : start + _CHUNK]
        noise = random.standard_normal((len(part), vectors.shape[1]), dtype=np.float32)
        made[start : start + _CHUNK] = vectors[part] + noise @ root
    return made


def histories(real: Bundle, bases: Places, number: int, seed: int) -> list[list[str]]:
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
        wanted = [int(base) for base in events[np.arange(size), random.integers(_NEAR, size=size)]]
        return [str(home[random.integers(first[base], last[base])]) for base in wanted if last[base] > first[base]]

    return [history() for _ in range(number)]


def _tables(real: Bundle, folder: Path, bases: Places, random: np.random.Generator) -> None:
    """Memory and words: what stands for a real item stands for one of the items made from it."""
    size, homes = len(_array(real, VECTORS)), _Homes.of(bases)
    memory, words = Memory.load(real.folder, size), Words.load(real.folder, size)
    neighbours = np.flatnonzero(np.arange(len(bases)) < _HEAD)
    made = Memory(
        _copied(memory.transitions, bases, np.arange(len(bases)), homes, random),
        _copied(memory.neighbours, bases, neighbours, homes, random),
    )
    made.save(folder)
    nameless = replace(words, names=words.names[:0], named=words.named[:0])  # several items have each title
    postings, often = _spread(words.postings, homes)
    replace(nameless, postings=postings, often=often).save(folder)


@dataclass(frozen=True, slots=True)
class _Homes:
    """The items made from each real one: `order[first[base] : last[base]]`."""

    order: Places
    first: Places
    last: Places

    @classmethod
    def of(cls, bases: Places) -> _Homes:
        order = np.argsort(bases, kind="stable")
        every = np.arange(bases.max() + 1)
        first, last = (np.searchsorted(bases[order], every, side=side) for side in ("left", "right"))
        return cls(order, first, last)


def _copied(rows: SparseRows, bases: Places, kept: Places, homes: _Homes, random: np.random.Generator) -> SparseRows:
    """For the items `kept` the rows of the real items behind them, for the others empty rows."""
    sizes = np.zeros(len(bases), dtype=np.int64)
    positions, weights = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    for start in range(0, len(kept), _CHUNK):
        part = kept[start : start + _CHUNK]
        columns, values, sizes[part] = rows.gather(bases[part])
        some = homes.first[columns] + random.integers(homes.last[columns] - homes.first[columns])
        items = homes.order[some]
        order = np.lexsort((items, np.repeat(np.arange(len(part)), sizes[part])))
        positions.append(items[order].astype(np.int32))
        weights.append(values[order])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return SparseRows(starts, np.concatenate(positions), np.concatenate(weights))


def _spread(postings: SparseRows, homes: _Homes) -> tuple[SparseRows, NDArray[np.int32]]:
    """For each word the items made from those that have it, of many those where it weighs most, and how many it has."""
    often = np.zeros(len(postings), dtype=np.int32)
    found: list[tuple[Places, Floats]] = []
    for row in range(len(postings)):
        bases, weights, _ = postings.gather(np.array([row]))
        order = np.argsort(-weights, kind="stable")
        lists = [homes.order[homes.first[base] : homes.last[base]] for base in bases[order].tolist()]
        often[row] = sum(map(len, lists))
        items = np.concatenate(lists)[:_POSTINGS]
        values = np.repeat(weights[order], [len(some) for some in lists])[:_POSTINGS]
        by_item = np.argsort(items, kind="stable")
        found.append((items[by_item], values[by_item]))
    starts = np.cumsum([0, *(len(items) for items, _ in found)])
    every = np.concatenate([items for items, _ in found]).astype(np.int32)
    return SparseRows(starts, every, np.concatenate([values for _, values in found])), often


def _lines(rows: Sequence[dict[str, Any]], bases: Places, keeps: NDArray[np.bool_]) -> Iterator[bytes]:
    for number, (base, kept) in enumerate(zip(bases.tolist(), keeps.tolist(), strict=True)):
        row = rows[base]
        values = [str(share) for share, is_kept in zip(SHARES, kept, strict=True) if is_kept]
        more = {"id": str(number), "attributes": row["attributes"] | ({KEEP: values} if values else {})}
        yield json.dumps(row | more, ensure_ascii=False).encode() + b"\n"


def _rows(real: Bundle) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (real.folder / ITEMS).read_bytes().split(b"\n") if line]


def _array(real: Bundle, name: str) -> Floats:
    vectors: Floats = np.load(real.folder / name, allow_pickle=False)
    return vectors
