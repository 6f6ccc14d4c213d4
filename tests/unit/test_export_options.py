"""Each option of training is a flag, in --help and in docs with when to use it; make passes on what it is given."""

from __future__ import annotations

import re
import subprocess

import pytest

from export.config import ExportSettings
from export.train.options import TRAINING
from tests.conftest import ROOT

_OPTIONS = sorted({*TRAINING, *ExportSettings.model_fields} - {"stage", "as_json"})
_DOCS = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", _OPTIONS)
def test_option_is_explained_in_help_and_in_docs(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert re.search(rf"^\| .*`{flag}[ `]", _DOCS, re.MULTILINE), f"docs/export.md has no row for {flag}"
    assert len(ExportSettings.model_fields[name].description or "") > 20


def test_docs_name_no_option_that_there_is_not() -> None:
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z0-9-]+)", _DOCS)}
    assert flags <= {*ExportSettings.model_fields}


@pytest.mark.parametrize("target", ["export", "serve", "report"])
def test_make_passes_teachers_and_other_flags_on(target: str) -> None:
    command = ["make", "-n", target, "TEACHERS=3", "EXPORT_FLAGS=--trunk all"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"-m export (report )?--preset quick --name movielens-quick +--teachers 3 --trunk all", said)
    plain = subprocess.run(command[:3], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--teachers" not in plain


@pytest.mark.parametrize("flags", ["--protocol time", "--seed 3 --protocol=time"])
def test_protocol_has_a_bundle_of_its_own_through_make_too(flags: str) -> None:
    command = ["make", "-n", "serve", f"EXPORT_FLAGS={flags}"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--name movielens-quick-time " in said
    assert '--bundle "artifacts/movielens-quick-time"' in said


def test_a_preset_moves_what_layers_there_are_and_a_flag_what_it_says() -> None:
    assert ExportSettings(_cli_parse_args=[]).moving_layers(1) == 1
    assert ExportSettings(_cli_parse_args=["--trunk", "2"]).moving_layers(1) == 2  # to be refused by name
    assert ExportSettings(_cli_parse_args=["--trunk", "all"]).moving_layers(1) is None
