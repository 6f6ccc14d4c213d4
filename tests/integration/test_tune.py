"""`python -m server tune` writes what won beside the bundle, and the server takes it on this machine only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from server.config import ServerSettings
from server.models.bundle import Bundle
from server.tuning.machine import machine
from server.tuning.tune import choose
from server.tuning.tuned import Trial, Tuned, engine_options, read_tuned, tuned_path
from tests.conftest import ROOT


def trial(tokens: int, rate: float, sessions: int = 1) -> Trial:
    return Trial(sessions=sessions, threads=1, tokens=tokens, texts_per_s=rate, lowest=rate, highest=rate)


def settings(*flags: str) -> ServerSettings:
    return ServerSettings(bundle=[Path("x")], _cli_parse_args=list(flags))


def test_smallest_of_the_good_batches_wins() -> None:
    trials = [trial(128, 80), trial(256, 99), trial(512, 100), trial(1_024, 97)]
    assert choose(trials).tokens == 256


def test_tuned_settings_are_used_where_flags_leave_a_choice(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    best = trial(256, 100, sessions=3)
    result = Tuned(machine=machine(), device="cpu", best=best, trials=[best])
    tuned_path(folder).write_text(result.model_dump_json())
    chosen = engine_options(settings(), folder)
    assert (chosen.sessions, chosen.limits.tokens) == (3, 256)
    assert engine_options(settings("--sessions", "1"), folder).sessions == 1
    tuned_path(folder).write_text(result.model_copy(update={"machine": "another"}).model_dump_json())
    assert engine_options(settings(), folder).limits.tokens == 1_024
    tuned_path(folder).write_text("{")
    assert read_tuned(folder, "cpu") is None


@pytest.mark.parametrize("version", ["1"])
def test_tune_measures_every_setting_and_writes_the_best(bundle: Bundle, tmp_path: Path, version: str) -> None:
    folder = tmp_path / version
    folder.symlink_to(bundle.folder, target_is_directory=True)
    command = [sys.executable, "-m", "server", "tune", "--bundle", str(folder), "--seconds", "0.05", "--repeats", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "<- chosen" in done.stdout
    tuned = read_tuned(folder, "cpu")
    assert tuned is not None
    assert tuned.best in tuned.trials
    assert {t.tokens for t in tuned.trials} == {128, 256, 512, 1_024, 2_048, 4_096}
