"""The served student beside the PyTorch teacher behind the same server."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from swiftrec.benchmarks import measure
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.suite import store
from swiftrec.server.models.bundle import Bundle


def test_student_and_teacher_are_measured_side_by_side(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "load", partial(measure.load, may_limit=True))  # a busy machine makes clients late
    command = ["teacher", "--bundle", str(bundle.folder), "--rounds", "1"]
    command += [
        "--seconds",
        "1",
        "--in-flight",
        "8",
        "--shares",
        "[0.3]",
        "--p99-bound-ms",
        "60000",
        "--results",
        str(tmp_path),
    ]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["teacher"]
    assert found["cosine"] > 0.75  # of the default student, on texts of random words
    assert found["cpu_ratio"][0] > 1
    assert store.load(next(tmp_path.iterdir())).teacher["cosine"] == found["cosine"]
