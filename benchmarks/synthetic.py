"""Catalogues of any size around a real one: a bundle with the real models, and items near the real items.

An item is a real one with noise of the catalogue's own covariance, so that items are as crowded, and as uneven in
length and direction, as many more items of the same kind would be; isotropic noise would fill 128 dimensions where the
real vectors fill about 25.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.catalogue.catalogue import ITEMS, VECTORS
from server.models.bundle import MANIFEST, RANKER, SENTENCES, Bundle, file_hash

KEEP, SHARES = "keep", (50, 10, 1)  # an attribute, and the percentages of the items that have each of its values
_NOISE = 0.5  # of the catalogue's own spread
_CHUNK = 65_536  # items at once
_TASTES, _NEAR = 3, 50  # of one user, and the real items that count as near one
_MOST_EVENTS = 32

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
    models = ["tokenizer.json", RANKER, *real.manifest.variants.values()]
    for name in models:
        shutil.copyfile(real.folder / name, folder / name)
    files = {name: file_hash(folder / name) for name in (ITEMS, *arrays, *models)}
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
