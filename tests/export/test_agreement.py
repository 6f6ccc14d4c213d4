"""Stage `verify` without interactions: what is kept of the comparison with an adopted teacher."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from swiftrec.export import gates
from swiftrec.export.checkpoints.checkpoint import locate
from swiftrec.export.data.text_variants import Texts, unseen
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.checkpoint_library import load_in_library
from swiftrec.export.evaluate.final_record import EXPECTED, FINAL, FinalRecord
from swiftrec.export.evaluate.record import RECORD, Quality
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.gates import GATES
from swiftrec.export.stages import blend as blend
from swiftrec.export.stages import distil, finetune, onnx, package, quantise, verify
from swiftrec.export.stages import final as final
from swiftrec.export.stages.data import write_verified
from swiftrec.server.models.bundle import load_bundle
from tests.export.checkpoints import add_modules
from tests.export.tiny import StoppedJob, dataset, job, write_checkpoint


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny bi-encoder that came in trained, without interactions, and its static student."""
    made = job(tmp_path_factory.mktemp("tiny"), "--ladder", "static", "--allow-lossy")
    original, data = tmp_path_factory.mktemp("original"), made.folder("data")
    write_checkpoint(original)
    add_modules(original, hidden=16)
    shutil.rmtree(data / "checkpoint")
    write_verified(locate(str(original), original, original), data / "checkpoint", adopt=True, max_tokens=128)
    texts, bare = unseen(Texts.load(data), made.settings.seed), replace(dataset(), histories=[])
    bare.save(data)
    Reference.make(load_in_library(original, "bi-encoder", 128), texts, bare.items).save(data)
    (made.folder("data") / "sources.json").write_text("{}")
    stages = {
        "finetune": finetune.run,
        "blend": blend.run,
        "distil": distil.run,
        "onnx": onnx.run,
        "quantise": quantise.run,
        "verify": verify.run,
        "final": final.run,
    }
    for name, run in stages.items():
        made.folder(name).mkdir()
        run(made, made.folder(name))
    return made


def test_record_keeps_the_intervals_of_the_agreement(adopted: StoppedJob) -> None:
    quality = Quality.model_validate_json((adopted.folder("verify") / RECORD).read_text())
    assert quality.protocol == "agreement"
    for record in quality.variants:
        assert {gate.gate: gate.value for gate in record.gates} == {
            gate: figure.mean for gate, figure in record.agreement.items()
        }
        assert record.agreement.keys() == {"cosine", "overlap"}
        for figure in record.agreement.values():
            assert figure.low <= figure.mean <= figure.high
            assert figure.low < figure.high


def test_variants_are_compared_with_the_library_of_the_checkpoint_and_not_with_the_teacher(
    adopted: StoppedJob, tmp_path: Path
) -> None:
    reference = Reference.load(adopted.folder("data"))
    quality = Quality.model_validate_json((adopted.folder("verify") / RECORD).read_text())
    assert f"as {reference.library} runs it, on {len(reference.texts)} texts" in quality.other.remark
    assert "sentence-transformers" in reference.library
    another = replace(reference, vectors=-reference.vectors, library="another library")
    shutil.copytree(adopted.root, tmp_path / ".stages" / "tiny")
    copy = job(tmp_path, "--ladder", "static", "--allow-lossy")
    another.save(copy.folder("data"))
    (tmp_path / "verify").mkdir()
    verify.run(copy, tmp_path / "verify")
    found = Quality.model_validate_json((tmp_path / "verify" / RECORD).read_text())
    pairs = [
        (one.agreement["cosine"].mean, two.agreement["cosine"].mean)
        for one, two in zip(quality.variants, found.variants, strict=True)
    ]
    assert all(one == pytest.approx(-two) for one, two in pairs)


def test_manifest_has_the_gates_of_the_bundle_and_of_its_ranker(adopted: StoppedJob, tmp_path: Path) -> None:
    folder = package._write(adopted, tmp_path, "key")
    manifest = load_bundle(folder).manifest
    assert {"MODEL_CARD.md", "report.html"} < manifest.files.keys()
    quality = Quality.model_validate(manifest.quality)
    assert quality.packaged is not None
    assert (quality.packaged.threshold, quality.packaged.passed) == (GATES.min_packaged, True)
    (ranker,) = quality.rankers
    assert [(gate.value, gate.threshold, gate.passed) for gate in ranker.gates] == [
        (ranker.parity, GATES.max_ranker_parity, True)
    ]
    assert "share of the evaluated top ten" in (folder / "MODEL_CARD.md").read_text()


def test_recommender_without_interactions_is_served_as_it_was_compared(adopted: StoppedJob) -> None:
    own = adopted.folder("final")
    for name, source in (("ranker.onnx", "onnx"), ("vectors.npy", "verify")):
        assert (own / name).read_bytes() == (adopted.folder(source) / name).read_bytes()
    assert FinalRecord.model_validate_json((own / FINAL).read_text()) == FinalRecord(events=0, measured_events=0)
    texts = Reference.load(adopted.folder("data")).texts
    expected = json.loads((own / EXPECTED).read_text())
    assert [row["texts"] for row in expected] == [[text] for text in texts[:32]]
    assert all(len(row["top"]) == 10 for row in expected)


def test_bundle_that_answers_differently_is_refused_with_value_and_threshold(
    adopted: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "GATES", replace(GATES, min_packaged=1.1))
    with pytest.raises(GateError, match=r"the packaged bundle: share of the evaluated top ten 1, at least 1\.1"):
        package._write(adopted, tmp_path, "key")
    assert not list(tmp_path.iterdir())
