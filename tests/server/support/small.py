"""A bundle of a few items with hand-written models, so that an engine starts within milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.blend import QUERIES, Weights
from swiftrec.server.catalogue.catalogue import ITEMS, SENTENCES, VECTORS
from swiftrec.server.domain import Recommendation, Request
from swiftrec.server.models.bundle import MANIFEST, RANKER, file_hash, load_bundle
from swiftrec.server.models.session import Session
from swiftrec.server.models.tokenizer import Tokenizer
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender
from tests.export import tables
from tests.export.checkpoints import save_tokenizer
from tests.server.support.bundles import stand_in, tiny_manifest

RANKER_WIDTH, SENTENCE_WIDTH = 6, 4
ITEMS_COUNT, MAX_TOKENS = 40, 64
WEIGHTS = Weights(1.0, 0.8, 0.5, 0.3, 0.7, 0.2, 0.1, -0.4)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789()"
_VOCABULARY = {
    word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *_LETTERS, *(f"##{c}" for c in _LETTERS)])
}
BY_MEANING, MEANT = "d3", 3  # a word of a title, which is not enough by words alone, and its item
_ENCODER = "encoder.tiny-fp32.onnx"


def titles(items: int = ITEMS_COUNT) -> list[str]:
    """Titles with a year in brackets, each once with it and once without."""
    return [f"Film {chr(97 + n % 26)}{n} ({1950 + n})" for n in range(items)]


class TinyEncoder:
    """A text's vectors depend on its tokens alone."""

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Both halves, each of length 1."""
        rows = [
            ids[mask > 0] for ids, mask in zip(feeds["input_ids"], feeds["attention_mask"].astype(int), strict=True)
        ]
        return np.array([_vector(row.astype(np.int64).tolist()) for row in rows], dtype=np.float32)


class TinyRanker:
    """A user is the sum of the events; later ones count more."""

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """User vectors."""
        mask = feeds["mask"].astype(np.float32)
        weights = mask * (1 + np.arange(mask.shape[1], dtype=np.float32)) * (1 + feeds["kinds"].astype(np.float32))
        users: NDArray[np.float32] = np.einsum("bt,btd->bd", weights, feeds["vectors"].astype(np.float32))
        return users


def write_bundle(
    folder: Path, *, weights: Weights = WEIGHTS, same_item: float = 2.0, exclude_history: bool = True
) -> Path:
    """The bundle; every request has the same weights."""
    folder.mkdir(parents=True)
    names, random = titles(), np.random.default_rng(4)
    save_tokenizer(_VOCABULARY, folder / "tokenizer.json")
    for name in (RANKER, _ENCODER):
        (folder / name).write_bytes(stand_in(name))
    rows = [
        {"id": f"i{n}", "title": title, "text": f"{title}. Genre g{n % 3}", "attributes": {"kind": [f"k{n % 3}"]}}
        for n, title in enumerate(names)
    ]
    lines = [json.dumps(row | {"popularity": n % 7}) for n, row in enumerate(rows)]
    (folder / ITEMS).write_text("\n".join(lines) + "\n")
    tokens = Tokenizer.load(folder / "tokenizer.json", MAX_TOKENS).encode([BY_MEANING])[0]
    for name, width in ((VECTORS, RANKER_WIDTH), (SENTENCES, SENTENCE_WIDTH)):
        vectors = random.normal(size=(len(rows), width)).astype(np.float32)
        if name == SENTENCES:
            vectors[MEANT] = _vector(tokens)[RANKER_WIDTH:]
        np.save(folder / name, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    tables.write_tables(folder, names, [str(row["text"]) for row in rows])
    tables.random_memory(len(rows), random, entries=5).save(folder)
    blend = [{"query": query, "events": 0, "weights": asdict(weights)} for query in QUERIES]
    _seal(folder, blend, same_item, exclude_history=exclude_history)
    return folder


def open_tiny(path: Path, _device: str, _threads: int) -> Session:
    """The hand-written model in place of the one at `path`."""
    return TinyRanker() if path.name == RANKER else TinyEncoder()


def engine(
    folder: Path,
    parts_off: Collection[str] = (),
    open_session: Callable[[Path, str, int], Session] = open_tiny,
) -> Recommender:
    """An engine that has not started; without a cache, so that equal texts are encoded again."""
    options = EngineOptions(sessions=1, cache_bytes=0, parts_off=frozenset(parts_off))
    return Recommender(load_bundle(folder), options, open_session=open_session)


def ask(running: Recommender, *requests: Request) -> list[Recommendation]:
    """The results of the engine for a batch of requests."""
    answers = running.recommend(requests)
    assert all(isinstance(answer, Recommendation) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Recommendation)]


def _vector(tokens: list[int]) -> NDArray[np.float64]:
    random = np.random.default_rng(tokens)
    halves = (random.normal(size=width) for width in (RANKER_WIDTH, SENTENCE_WIDTH))
    return np.concatenate([half / np.linalg.norm(half) for half in halves])


def _seal(folder: Path, blend: list[dict[str, Any]], same_item: float, *, exclude_history: bool) -> None:
    manifest = tiny_manifest(
        name="small",
        dimensions=RANKER_WIDTH,
        sentence_dimensions=SENTENCE_WIDTH,
        max_tokens=MAX_TOKENS,
        max_history=16,
        variants={"tiny-fp32": _ENCODER},
        default={"cpu": "tiny-fp32"},
        files={path.name: file_hash(path) for path in folder.iterdir()},
        exclude_history=exclude_history,
        blend=blend,
        same_item=same_item,
    )
    (folder / MANIFEST).write_text(manifest.sealed().model_dump_json())
