"""`swiftrec tune` writes what won beside the bundle, and the server takes it on this machine only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.tuning.tune import choose
from swiftrec.server.tuning.tuned import Trial, read_tuned
from tests.conftest import ROOT


def trial(tokens: int, rate: float, sessions: int = 1) -> Trial:
    return Trial(sessions=sessions, threads=1, tokens=tokens, texts_per_s=rate, lowest=rate, highest=rate)


def test_smallest_of_the_good_batches_wins() -> None:
    trials = [trial(128, 80), trial(256, 99), trial(512, 100), trial(1_024, 97)]
    assert choose(trials).tokens == 256


@pytest.mark.parametrize("version", ["1"])
def test_tune_measures_every_setting_and_writes_the_best(bundle: Bundle, tmp_path: Path, version: str) -> None:
    folder = tmp_path / version
    folder.symlink_to(bundle.folder, target_is_directory=True)
    command = [
        sys.executable,
        "-m",
        "swiftrec.server",
        "tune",
        "--bundle",
        str(folder),
        "--seconds",
        "0.05",
        "--repeats",
        "1",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "<- chosen" in done.stdout
    tuned = read_tuned(folder, "cpu", bundle.manifest.default["cpu"])
    assert tuned is not None
    assert tuned.best in tuned.trials
    assert {t.tokens for t in tuned.trials} == {128, 256, 512, 1_024, 2_048, 4_096}
