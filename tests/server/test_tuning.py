"""`swiftrec tune` and the use of its result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.tuning.machine import machine
from swiftrec.server.tuning.tune import choose
from swiftrec.server.tuning.tuned import Trial, Tuned, engine_options, read_tuned, tuned_path
from tests.conftest import ROOT
from tests.server.support.bundles import tiny_manifest


def trial(tokens: int, rate: float, sessions: int = 1) -> Trial:
    return Trial(sessions=sessions, threads=1, tokens=tokens, texts_per_s=rate, lowest=rate, highest=rate)


def test_smallest_batch_within_tolerance_is_chosen() -> None:
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


_DEFAULT_TOKENS = 1_024


def settings(*flags: str) -> ServerSettings:
    return ServerSettings(bundle=[Path("x")], _cli_parse_args=list(flags))


@pytest.fixture
def tuned_bundle(tmp_path: Path) -> Bundle:
    """Two precisions of one student, of which int8 is the default; nothing lies on disk."""
    files = {"bert3-int8": "int8.onnx", "bert3-fp32": "fp32.onnx"}
    manifest = tiny_manifest(format=1, variants=files, default={"cpu": "bert3-int8"})
    return Bundle(tmp_path / "1", manifest)


def store(tuned_bundle: Bundle, **other: str) -> None:
    """A result of this machine for int8, but for what is given."""
    best = Trial(sessions=3, threads=1, tokens=256, texts_per_s=100, lowest=100, highest=100)
    fields = {"machine": machine(), "device": "cpu", "variant": "bert3-int8"} | other
    result = Tuned(machine=fields["machine"], device=fields["device"], variant=fields["variant"], best=best, trials=[])
    tuned_path(tuned_bundle.folder).write_text(result.model_dump_json())


def test_tuned_settings_are_used_when_flags_do_not_set_them(tuned_bundle: Bundle) -> None:
    store(tuned_bundle)
    chosen = engine_options(settings(), tuned_bundle)
    assert (chosen.sessions, chosen.limits.tokens) == (3, 256)
    assert engine_options(settings("--sessions", "1"), tuned_bundle).sessions == 1


@pytest.mark.parametrize("name", ["bert3-int8", "int8"])
def test_tuned_settings_are_used_when_the_variant_is_named(tuned_bundle: Bundle, name: str) -> None:
    store(tuned_bundle)
    assert engine_options(settings("--variant", name), tuned_bundle).limits.tokens == 256


@pytest.mark.parametrize("name", ["bert3-fp32", "fp32"])
def test_tuned_settings_are_not_used_for_another_variant(tuned_bundle: Bundle, name: str) -> None:
    store(tuned_bundle)
    assert engine_options(settings("--variant", name), tuned_bundle).limits.tokens == _DEFAULT_TOKENS


@pytest.mark.parametrize("other", [{"machine": "another"}, {"device": "cuda"}, {"variant": "bert3-fp32"}])
def test_tuned_settings_are_not_used_when_measured_elsewhere(tuned_bundle: Bundle, other: dict[str, str]) -> None:
    store(tuned_bundle, **other)
    assert engine_options(settings(), tuned_bundle).limits.tokens == _DEFAULT_TOKENS


def test_damaged_result_is_ignored(tuned_bundle: Bundle) -> None:
    tuned_path(tuned_bundle.folder).write_text("{")
    assert read_tuned(tuned_bundle.folder, "cpu", "bert3-int8") is None


def test_unknown_variant_is_refused(tuned_bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no encoder variant 'fp16'"):
        engine_options(settings("--variant", "fp16"), tuned_bundle)
