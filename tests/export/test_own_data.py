"""Exports of a user's data and checkpoint through every stage: tiny and random, with the real program."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from swiftrec.export.config import ExportSettings
from swiftrec.export.errors import GateError
from swiftrec.export.gates import QualityThresholds
from swiftrec.export.job import Job
from swiftrec.export.stages import verify
from swiftrec.export.stages.package import check_results
from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS
from swiftrec.server.models.bundle import SENTENCES, file_hash, load_bundle
from swiftrec.server.parts import TABLES
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender
from tests.conftest import ROOT
from tests.export.checkpoints import save_bert
from tests.export.command import run_export
from tests.server.support.process import serving

_WORDS = ["red", "green", "blue", "small", "large", "round", "flat", "soft", "lamp", "chair", "table", "vase"]


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` (60 items, 40 users) and `bert` (2 layers, 64 wide, random weights)."""
    folder, rng = tmp_path_factory.mktemp("own"), random.Random(1)
    data = folder / "data"
    data.mkdir()
    items = [{"item_id": f"i{n}", "text": " ".join(rng.sample(_WORDS, 3)), "colour": _WORDS[n % 3]} for n in range(60)]
    events = [
        {"user_id": f"u{u}", "item_id": f"i{rng.randrange(60)}", "timestamp": t} for u in range(40) for t in range(8)
    ]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (data / "interactions.jsonl").write_text("\n".join(map(json.dumps, events)))
    save_bert(folder / "bert", [*_WORDS, "good", "a"], width=64)
    return folder


def flags_of(folder: Path, artifacts: str = "artifacts", seed: int = 7) -> list[str]:
    flags = ["--preset", "smoke", "--name", "own", "--artifacts", str(folder / artifacts), "--seed", str(seed)]
    flags += ["--backbone-layers", "1", "--int8-target", "avx2"]
    flags += ["--data", str(folder / "data"), "--checkpoint", str(folder / "bert")]
    flags += ["--vocabulary", "used", "--students", "bert1,bert1x32,static"]
    return [*flags, "--allow-lossy"]


def test_killed_export_resumes_to_a_bundle_that_serves(own_data: Path) -> None:
    command = [sys.executable, "-m", "swiftrec.export", *flags_of(own_data)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "distil" in line)  # the stage has begun
        process.send_signal(signal.SIGKILL)
    stages = own_data / "artifacts" / ".stages" / "own"
    before = (stages / "finetune" / "stage.json").stat().st_mtime_ns
    assert not (stages / "distil").exists()
    subprocess.run(command, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    assert (stages / "finetune" / "stage.json").stat().st_mtime_ns == before
    with serving(own_data / "artifacts" / "own") as server:
        reply = server.stub.Recommend(pb.RecommendRequest(query="a good red lamp", top_k=3), timeout=10)
        assert (len(reply.items), reply.bundle, reply.version) == (3, "own", 1)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            encoded = EncoderServiceStub(channel).Encode(EncodeRequest(texts=["red lamp", "a blue chair"]), timeout=10)
    bundle = load_bundle(own_data / "artifacts" / "own")
    assert bundle.manifest.files["ranker.onnx"] == file_hash(stages / "final" / "ranker.onnx")
    assert (bundle.manifest.dimensions, bundle.manifest.sentence_dimensions) == (32, 64)
    sentences = np.load(bundle.folder / SENTENCES)
    assert (sentences.dtype, sentences.shape) == (np.float32, (60, 64))
    np.testing.assert_allclose(np.linalg.norm(sentences, axis=1), 1, atol=1e-5)
    answered = np.frombuffer(encoded.vectors, "<f4").reshape(encoded.rows, encoded.dimensions)
    assert answered.shape == (2, 32)  # what the ranker reads, not the sentence half behind it
    np.testing.assert_allclose(np.linalg.norm(answered, axis=1), 1, atol=1e-5)
    assert bundle.manifest.quality["pieces"] == {"kept": 18, "total": 18}  # whole words only: no letters are known
    assert run_export(*flags_of(own_data)).returncode == 0
    assert not (own_data / "artifacts" / "own" / "2").exists()  # no finished stage runs again


def test_export_names_every_reason_when_no_variant_passes_its_gates(
    own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [flag for flag in flags_of(own_data) if flag != "--allow-lossy"]
    job = Job(ExportSettings(_cli_parse_args=flags))
    monkeypatch.setattr(
        "swiftrec.export.evaluate.selection.QUALITY", QualityThresholds(shipped={"overlap": 1.1}, default={})
    )
    with pytest.raises(GateError, match=r"bert1-fp32: overlap [\d.]+, at least 1\.1"):
        verify.run(job, tmp_path)
    assert not list(tmp_path.iterdir())


def test_bundle_with_other_results_is_refused(own_data: Path) -> None:
    bundle = load_bundle(own_data / "artifacts" / "own")
    wrong = [{"texts": ["red lamp"], "seen": [], "top": ["no", "such"]}]
    with Recommender(bundle, EngineOptions()) as engine, pytest.raises(GateError, match="evaluated top ten"):
        check_results(engine, wrong)


def made(folder: Path, artifacts: str, seed: int) -> dict[str, str]:
    """SHA-256 of each file of the bundle without speeds or date in it; a missing bundle is exported."""
    assert run_export(*flags_of(folder, artifacts, seed)).returncode == 0
    files = load_bundle(folder / artifacts / "own").manifest.files
    return {name: sha256 for name, sha256 in files.items() if name not in ("MODEL_CARD.md", "report.html")}


def test_bundle_is_deterministic_for_a_seed(own_data: Path) -> None:
    first, again, other = made(own_data, "artifacts", 7), made(own_data, "again", 7), made(own_data, "other", 8)
    encoders = {f"encoder.{variant}.onnx" for variant in ("bert1-fp32", "bert1-int8", "bert1x32-fp32", "static-fp32")}
    assert {"ranker.onnx", "tokenizer.json", ITEMS, VECTORS} | encoders <= {*first}
    assert first == again
    assert {name for name in first if first[name] == other[name]} == {"tokenizer.json", ITEMS, *TABLES}
