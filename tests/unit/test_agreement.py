"""Stage `verify` without interactions: what is kept of the comparison with an adopted teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export import gates
from export.compress import quantise, trace
from export.data.head import Head, Shape
from export.errors import GateError
from export.evaluate import verify
from export.evaluate.record import RECORD, Quality
from export.gates import GATES
from export.package import publish
from export.train import distil, finetune
from server.models.bundle import load_bundle
from tests.tiny import StoppedJob, dataset, job


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny bi-encoder that came in trained, without interactions, and its static student."""
    made = job(tmp_path_factory.mktemp("tiny"), "--ladder", "static", "--allow-lossy")
    Head(Shape("bi-encoder", "mean")).save(made.folder("data") / "checkpoint")
    replace(dataset(), histories=[]).save(made.folder("data"))
    (made.folder("data") / "sources.json").write_text("{}")
    stages = {
        "finetune": finetune.run,
        "distil": distil.run,
        "onnx": trace.run,
        "quantise": quantise.run,
        "verify": verify.run,
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


def test_manifest_has_the_gates_of_the_bundle_and_of_its_ranker(adopted: StoppedJob, tmp_path: Path) -> None:
    folder = publish._write(adopted, tmp_path, "key")
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


def test_bundle_that_answers_differently_is_refused_with_value_and_threshold(
    adopted: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "GATES", replace(GATES, min_packaged=1.1))
    with pytest.raises(GateError, match=r"the packaged bundle: share of the evaluated top ten 1, at least 1\.1"):
        publish._write(adopted, tmp_path, "key")
    assert not list(tmp_path.iterdir())
