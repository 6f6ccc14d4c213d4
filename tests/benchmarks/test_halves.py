"""Stand-ins of the benchmarks know that an encoder's vector has two halves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.benchmarks.stub import StubSession
from swiftrec.benchmarks.synthetic import make_bundle
from swiftrec.server.catalogue.sparse import Memory
from swiftrec.server.catalogue.words import Matches, Words
from swiftrec.server.models.bundle import FORMAT, MANIFEST, SENTENCES, Bundle, Manifest, file_hash, load_bundle
from tests.export import tables
from tests.server.bundles import stand_in

_ITEMS, _RANKER, _SENTENCE = 12, 4, 3


@pytest.fixture
def real(tmp_path: Path) -> Bundle:
    """A bundle whose models are a few bytes."""
    folder, rng = tmp_path / "real", np.random.default_rng(0)
    folder.mkdir()
    for name in ("tokenizer.json", "ranker.onnx", "encoder.tiny-fp32.onnx"):
        (folder / name).write_bytes(stand_in(name))
    rows = [{"id": str(n), "title": "", "text": "", "attributes": {}, "popularity": 1} for n in range(_ITEMS)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for name, width in (("vectors.npy", _RANKER), (SENTENCES, _SENTENCE)):
        vectors = rng.normal(size=(_ITEMS, width)).astype(np.float32)
        np.save(folder / name, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    titles = [f"title{n} word{n % 3}" for n in range(_ITEMS)]
    tables.write_tables(folder, titles)
    tables.random_memory(_ITEMS, rng, entries=5).save(folder)
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        version=1,
        created="",
        export_key="",
        dimensions=_RANKER,
        sentence_dimensions=_SENTENCE,
        max_tokens=8,
        max_history=8,
        variants={"tiny-fp32": "encoder.tiny-fp32.onnx"},
        default={"cpu": "tiny-fp32"},
        quality={},
        sources={},
        tools={},
        machine="",
        files={path.name: file_hash(path) for path in folder.iterdir()},
    )
    (folder / MANIFEST).write_text(manifest.sealed().model_dump_json())
    return load_bundle(folder)


def test_stub_session_gives_what_the_model_of_that_name_gives(real: Bundle) -> None:
    feeds: dict[str, NDArray[np.generic]] = {"input_ids": np.zeros((5, 2), np.int64)}
    widths = {
        path.name: StubSession.of(path, 0.0).run(feeds).shape
        for path in (real.encoder("cpu", None), real.folder / "ranker.onnx")
    }
    assert widths == {"encoder.tiny-fp32.onnx": (5, _RANKER + _SENTENCE), "ranker.onnx": (5, _RANKER)}


def test_synthetic_bundle_has_sentence_vectors_for_its_items(real: Bundle, tmp_path: Path) -> None:
    make_bundle(real, tmp_path / "made", 40, seed=1)
    made = load_bundle(tmp_path / "made")
    sentences = np.load(made.folder / SENTENCES)
    assert (sentences.dtype, sentences.shape) == (np.float32, (40, _SENTENCE))
    np.testing.assert_allclose(np.linalg.norm(sentences, axis=1), 1, atol=1e-5)
    assert np.load(made.folder / "vectors.npy").shape == (40, _RANKER)


def test_synthetic_bundle_has_the_tables_of_the_real_one_for_its_items(
    real: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.benchmarks.synthetic._HEAD", 20)
    monkeypatch.setattr("swiftrec.benchmarks.synthetic._POSTINGS", 7)
    bases = make_bundle(real, tmp_path / "made", 40, seed=1)
    memory, words = Memory.load(tmp_path / "made", 40), Words.load(tmp_path / "made", 40)
    known, index = Memory.load(real.folder, _ITEMS), Words.load(real.folder, _ITEMS)
    for item, base in enumerate(bases.tolist()):
        _, positions, chances = memory.next_chances([np.array([item])])
        _, wanted, expected = known.next_chances([np.array([base])])
        assert sorted(bases[positions].tolist()) == sorted(wanted.tolist())
        np.testing.assert_allclose(sorted(chances), sorted(expected))
        assert len(memory.near_weights([np.array([item])]).positions) == (5 if item < 20 else 0)
    found, best = Matches(words, ["word1"], 40).boosts, Matches(index, ["word1"], _ITEMS).boosts
    assert len(found.positions) == 7
    assert {*bases[found.positions].tolist()} <= {*best.positions.tolist()}
    assert words.named_by("title1 word1") is None  # several items have it
