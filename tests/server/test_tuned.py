"""What was tuned is used for the bundle, machine, device and variant that it was measured with, and for no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import Bundle, Manifest
from swiftrec.server.tuning.machine import machine
from swiftrec.server.tuning.tuned import Trial, Tuned, engine_options, read_tuned, tuned_path

_DEFAULT_TOKENS = 1_024


def settings(*flags: str) -> ServerSettings:
    return ServerSettings(bundle=[Path("x")], _cli_parse_args=list(flags))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Two precisions of one student, of which int8 is the default; nothing lies on disk."""
    files = {"bert3-int8": "int8.onnx", "bert3-fp32": "fp32.onnx"}
    manifest = Manifest(
        format=1,
        name="b",
        version=1,
        created="",
        export_key="",
        dimensions=4,
        max_tokens=8,
        max_history=8,
        variants=files,
        default={"cpu": "bert3-int8"},
        quality={},
        sources={},
        tools={},
        machine="",
        files={},
    )
    return Bundle(tmp_path / "1", manifest)


def store(bundle: Bundle, **other: str) -> None:
    """A result of this machine for int8, but for what is given."""
    best = Trial(sessions=3, threads=1, tokens=256, texts_per_s=100, lowest=100, highest=100)
    fields = {"machine": machine(), "device": "cpu", "variant": "bert3-int8"} | other
    result = Tuned(machine=fields["machine"], device=fields["device"], variant=fields["variant"], best=best, trials=[])
    tuned_path(bundle.folder).write_text(result.model_dump_json())


def test_tuned_settings_are_used_where_flags_leave_a_choice(bundle: Bundle) -> None:
    store(bundle)
    chosen = engine_options(settings(), bundle)
    assert (chosen.sessions, chosen.limits.tokens) == (3, 256)
    assert engine_options(settings("--sessions", "1"), bundle).sessions == 1


@pytest.mark.parametrize("name", ["bert3-int8", "int8"])
def test_tuned_settings_are_used_when_the_variant_is_named(bundle: Bundle, name: str) -> None:
    store(bundle)
    assert engine_options(settings("--variant", name), bundle).limits.tokens == 256


@pytest.mark.parametrize("name", ["bert3-fp32", "fp32"])
def test_tuned_settings_are_not_used_for_another_variant(bundle: Bundle, name: str) -> None:
    store(bundle)
    assert engine_options(settings("--variant", name), bundle).limits.tokens == _DEFAULT_TOKENS


@pytest.mark.parametrize("other", [{"machine": "another"}, {"device": "cuda"}, {"variant": "bert3-fp32"}])
def test_tuned_settings_are_not_used_when_measured_elsewhere(bundle: Bundle, other: dict[str, str]) -> None:
    store(bundle, **other)
    assert engine_options(settings(), bundle).limits.tokens == _DEFAULT_TOKENS


def test_damaged_result_is_ignored(bundle: Bundle) -> None:
    tuned_path(bundle.folder).write_text("{")
    assert read_tuned(bundle.folder, "cpu", "bert3-int8") is None


def test_unknown_variant_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no encoder variant 'fp16'"):
        engine_options(settings("--variant", "fp16"), bundle)
