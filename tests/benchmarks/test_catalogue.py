"""`swiftrec bench catalogue`, and the synthetic bundles that it measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.benchmarks.catalogue.synthetic import make_bundle
from swiftrec.benchmarks.null_server import NullSession
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.words import Matches, Words
from swiftrec.server.models.bundle import FORMAT, MANIFEST, SENTENCES, Bundle, Manifest, file_hash, load_bundle
from tests.conftest import ROOT
from tests.export import tables
from tests.server.support.bundles import stand_in


def test_exact_and_approximate_stand_side_by_side_under_every_filter(bundle: Bundle) -> None:
    command = [
        sys.executable,
        "-m",
        "swiftrec.benchmarks",
        "catalogue",
        "--bundle",
        str(bundle.folder),
        "--items",
        "3000",
    ]
    ended = subprocess.run(
        [*command, "--users", "20", "--repeats", "1"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])["catalogue"]
    assert [(row["items"], row["index"]) for row in rows] == [(3_000, "exact"), (3_000, "approximate")]
    for row in rows:
        kinds = {"history", "query", "history and query"}
        assert set(row["search"]) == kinds | {f"history and query, {share} %" for share in (50, 10, 1)}
        assert set(row["whole"]) == kinds | {"history and query, 10 %"}
        assert min(result["recall"] for result in row["search"].values()) >= 0.99
        assert all(
            0 < result["p50_ms"] <= result["p99_ms"] for result in (*row["search"].values(), *row["whole"].values())
        )
        assert row["memory_mb"] > 0
    assert rows[1]["build_s"] > 0
    assert rows[1]["index_mb"] > 0


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


def test_null_session_gives_what_the_model_of_that_name_gives(real: Bundle) -> None:
    feeds: dict[str, NDArray[np.generic]] = {"input_ids": np.zeros((5, 2), np.int64)}
    widths = {
        path.name: NullSession.of(path, 0.0).run(feeds).shape
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
    monkeypatch.setattr("swiftrec.benchmarks.catalogue.synthetic._HEAD", 20)
    monkeypatch.setattr("swiftrec.benchmarks.catalogue.synthetic._POSTINGS", 7)
    bases = make_bundle(real, tmp_path / "made", 40, seed=1)
    memory, words = Memory.load(tmp_path / "made", 40), Words.load(tmp_path / "made", 40)
    known, index = Memory.load(real.folder, _ITEMS), Words.load(real.folder, _ITEMS)
    for item, base in enumerate(bases.tolist()):
        _, positions, chances = memory.next_chances([np.array([item])])
        _, entry, expected = known.next_chances([np.array([base])])
        assert sorted(bases[positions].tolist()) == sorted(entry.tolist())
        np.testing.assert_allclose(sorted(chances), sorted(expected))
        assert len(memory.near_weights([np.array([item])]).positions) == (5 if item < 20 else 0)
    result, best = Matches(words, ["word1"], 40).boosts, Matches(index, ["word1"], _ITEMS).boosts
    assert len(result.positions) == 7
    assert {*bases[result.positions].tolist()} <= {*best.positions.tolist()}
    assert words.named_by("title1 word1") is None  # several items have it


def test_synthetic_bundle_may_have_fewer_items_than_the_real_one(real: Bundle, tmp_path: Path) -> None:
    number = _ITEMS // 2
    bases = make_bundle(real, tmp_path / "made", number, seed=1)
    memory, known = Memory.load(tmp_path / "made", number), Memory.load(real.folder, _ITEMS)
    for item, base in enumerate(bases.tolist()):
        _, positions, _ = memory.next_chances([np.array([item])])
        _, real_positions, _ = known.next_chances([np.array([base])])
        assert {*bases[positions].tolist()} == {*real_positions.tolist()} & {*bases.tolist()}
    assert Words.load(tmp_path / "made", number).postings.gather(np.array([0]))[0].max(initial=0) < number
