"""Stage `verify` without interactions: what is kept of the comparison with an adopted teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.compress import quantise, trace
from export.data.head import Head, Shape
from export.evaluate import verify
from export.evaluate.record import RECORD, Quality
from export.train import distil, finetune
from tests.tiny import StoppedJob, dataset, job


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny bi-encoder that came in trained, without interactions, and its static student."""
    made = job(tmp_path_factory.mktemp("tiny"), "--ladder", "static", "--allow-lossy")
    Head(Shape("bi-encoder", "mean")).save(made.folder("data") / "checkpoint")
    replace(dataset(), histories=[]).save(made.folder("data"))
    for stage, name in ((finetune, "finetune"), (distil, "distil"), (trace, "onnx"), (quantise, "quantise")):
        made.folder(name).mkdir()
        stage.run(made, made.folder(name))
    return made


def test_record_keeps_the_intervals_of_the_agreement(adopted: StoppedJob, tmp_path: Path) -> None:
    verify.run(adopted, tmp_path)
    quality = Quality.model_validate_json((tmp_path / RECORD).read_text())
    assert quality.protocol == "agreement"
    for record in quality.variants:
        assert {gate.gate: gate.value for gate in record.gates} == {
            gate: figure.mean for gate, figure in record.agreement.items()
        }
        assert record.agreement.keys() == {"cosine", "overlap"}
        for figure in record.agreement.values():
            assert figure.low <= figure.mean <= figure.high
            assert figure.low < figure.high
