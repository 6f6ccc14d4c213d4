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
from swiftrec.server.models.bundle import SENTENCES, Bundle, load_bundle
from tests.conftest import ROOT
from tests.server.support.small import ITEMS_COUNT, RANKER_WIDTH, SENTENCE_WIDTH, write_bundle

MADE_ITEMS = 2 * ITEMS_COUNT


def test_exact_and_approximate_stand_side_by_side_under_every_filter(bundle: Bundle) -> None:
    flags = ["--bundle", str(bundle.folder), "--items", "3000", "--users", "20", "--repeats", "1"]
    command = [sys.executable, "-m", "swiftrec.benchmarks", "catalogue", *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
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


@pytest.fixture
def real(tmp_path: Path) -> Bundle:
    """A bundle whose models are a few bytes."""
    return load_bundle(write_bundle(tmp_path / "real"))


def test_null_session_gives_what_the_model_of_that_name_gives(real: Bundle) -> None:
    feeds: dict[str, NDArray[np.generic]] = {"input_ids": np.zeros((5, 2), np.int64)}
    widths = {
        path.name: NullSession.of(path, 0.0).run(feeds).shape
        for path in (real.encoder("cpu", None), real.folder / "ranker.onnx")
    }
    assert widths == {"encoder.tiny-fp32.onnx": (5, RANKER_WIDTH + SENTENCE_WIDTH), "ranker.onnx": (5, RANKER_WIDTH)}


def test_synthetic_bundle_has_sentence_vectors_for_its_items(real: Bundle, tmp_path: Path) -> None:
    make_bundle(real, tmp_path / "made", MADE_ITEMS, seed=1)
    made = load_bundle(tmp_path / "made")
    sentences = np.load(made.folder / SENTENCES)
    assert (sentences.dtype, sentences.shape) == (np.float32, (MADE_ITEMS, SENTENCE_WIDTH))
    np.testing.assert_allclose(np.linalg.norm(sentences, axis=1), 1, atol=1e-5)
    assert np.load(made.folder / "vectors.npy").shape == (MADE_ITEMS, RANKER_WIDTH)


def test_synthetic_bundle_has_the_tables_of_the_real_one_for_its_items(
    real: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.benchmarks.catalogue.synthetic._HEAD", 20)
    monkeypatch.setattr("swiftrec.benchmarks.catalogue.synthetic._POSTINGS", 7)
    bases = make_bundle(real, tmp_path / "made", MADE_ITEMS, seed=1)
    memory, words = Memory.load(tmp_path / "made", MADE_ITEMS), Words.load(tmp_path / "made", MADE_ITEMS)
    known, index = Memory.load(real.folder, ITEMS_COUNT), Words.load(real.folder, ITEMS_COUNT)
    for item, base in enumerate(bases.tolist()):
        _, positions, chances = memory.next_chances([np.array([item])])
        _, entry, expected = known.next_chances([np.array([base])])
        assert sorted(bases[positions].tolist()) == sorted(entry.tolist())
        np.testing.assert_allclose(sorted(chances), sorted(expected))
        assert len(memory.near_weights([np.array([item])]).positions) == (5 if item < 20 else 0)
    result, best = Matches(words, ["g1"], MADE_ITEMS).boosts, Matches(index, ["g1"], ITEMS_COUNT).boosts
    assert len(result.positions) == 7
    assert {*bases[result.positions].tolist()} <= {*best.positions.tolist()}
    assert words.named_by("Film a0 (1950)") is None  # two items have this title


def test_synthetic_bundle_may_have_fewer_items_than_the_real_one(real: Bundle, tmp_path: Path) -> None:
    number = ITEMS_COUNT // 2
    bases = make_bundle(real, tmp_path / "made", number, seed=1)
    memory, known = Memory.load(tmp_path / "made", number), Memory.load(real.folder, ITEMS_COUNT)
    for item, base in enumerate(bases.tolist()):
        _, positions, _ = memory.next_chances([np.array([item])])
        _, real_positions, _ = known.next_chances([np.array([base])])
        assert {*bases[positions].tolist()} == {*real_positions.tolist()} & {*bases.tolist()}
    assert Words.load(tmp_path / "made", number).postings.gather(np.array([0]))[0].max(initial=0) < number
