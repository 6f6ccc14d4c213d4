"""The served student beside the PyTorch teacher behind the same server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.suite import store
from server.models.bundle import Bundle
from tests.conftest import ROOT


def test_student_and_teacher_are_measured_side_by_side(bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "teacher", "--bundle", str(bundle.folder), "--rounds", "1"]
    command += [
        "--seconds",
        "2",
        "--in-flight",
        "8",
        "--shares",
        "[0.3]",
        "--p99-bound-ms",
        "60000",
        "--results",
        str(tmp_path),
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])["teacher"]
    assert found["cosine"] > 0.8
    assert found["cpu_ratio"][0] > 1
    assert store.load(next(tmp_path.iterdir())).teacher["cosine"] == found["cosine"]
