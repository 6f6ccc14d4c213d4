"""Each option of training is a flag, in --help and in docs with when to use it; the export names its bundle."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swiftrec.export.__main__ import main
from swiftrec.export.config import ExportSettings
from swiftrec.export.planted.command import PlantedSettings
from swiftrec.export.seeds.settings import SeedsSettings
from swiftrec.export.training_settings import TRAINING
from swiftrec.server.errors import ConfigError
from swiftrec.server.settings_reader import read_settings
from tests.conftest import ROOT

_OPTIONS = sorted({*TRAINING, *ExportSettings.model_fields} - {"stage"})
_DOCS = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", _OPTIONS)
def test_option_is_explained_in_help_and_in_docs(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert re.search(rf"^\| .*`{flag}[ `]", _DOCS, re.MULTILINE), f"docs/export.md has no row for {flag}"
    assert len(ExportSettings.model_fields[name].description or "") > 20


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(
            ("seeds", name)
            for name in sorted({*SeedsSettings.model_fields} - {*ExportSettings.model_fields, "as_json"})
        ),
        *(("planted", name) for name in sorted({*PlantedSettings.model_fields} - {"folder", "seed"})),
    ],
)
def test_option_of_a_command_is_explained_in_help_and_in_docs(command: str, name: str) -> None:
    fields = (SeedsSettings if command == "seeds" else PlantedSettings).model_fields
    assert re.search(rf"^\| .*`--{name}[ `]", _DOCS, re.MULTILINE), f"docs/export.md has no row for --{name}"
    assert len(fields[name].description or "") > 10


def test_docs_name_only_existing_options() -> None:
    flags = {flag.replace("-", "_") for flag in re.findall(r"`--([a-z0-9-]+)", _DOCS)}
    assert flags <= {*SeedsSettings.model_fields, *PlantedSettings.model_fields}


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/x/my data", "my-data-quick"),
        ("/x/Données [2026]", "Donnees-2026-quick"),
        ("/x/ml_1m.v2", "ml_1m.v2-quick"),
        ("/x/映画", "data-quick"),
        ('/x/`a`$b"c', "a-b-c-quick"),
    ],
)
def test_bundle_name_derived_from_a_data_folder_is_a_valid_flag(folder: str, name: str) -> None:
    settings = ExportSettings(_cli_parse_args=["--data", folder])
    assert settings.name == name
    assert ExportSettings(_cli_parse_args=["--name", name]).bundle == settings.bundle


def test_where_prints_the_bundles_folder_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWIFTREC_EXPORT_PROTOCOL", "time")
    monkeypatch.setenv("MORE", "--preset full")
    assert main(["where", "--flags-from", "MORE"]) == 0
    assert capsys.readouterr().out == "artifacts/movielens-full-time\n"
    assert not list(tmp_path.iterdir())


def test_finished_export_prints_the_bundles_folder_alone_on_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swiftrec.export.__main__.run_all", lambda job: job.console.print("progress"))
    assert main(["--artifacts", str(tmp_path), "--name", "mine"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/mine\n"


def test_preset_tunes_at_most_the_existing_layers_and_a_flag_exactly_its_number() -> None:
    assert ExportSettings(_cli_parse_args=[]).layers_to_tune(1) == 1
    assert ExportSettings(_cli_parse_args=["--backbone-layers", "2"]).layers_to_tune(1) == 2  # to be refused by name
    assert ExportSettings(_cli_parse_args=["--backbone-layers", "all"]).layers_to_tune(1) is None


@pytest.mark.parametrize("name", ["data", "checkpoint"])
def test_folder_name_that_is_not_utf8_is_refused_with_its_flag(name: str) -> None:
    folder = b"/x/caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(ConfigError, match=rf"^--{name}: is not UTF-8: rename the folder"):
        read_settings(ExportSettings, [f"--{name}", folder])


def test_empty_variables_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CHECKPOINT", "PRESET", "NAME"):
        monkeypatch.setenv(f"SWIFTREC_EXPORT_{name}", "")
    settings = read_settings(ExportSettings, [])
    assert (settings.data, settings.checkpoint, settings.name) == (None, None, "movielens-quick")


@pytest.mark.parametrize(
    ("flags", "field", "value", "new"),
    [
        (["--trunk", "3"], "backbone_layers", "3", "--backbone-layers"),
        (["--trunk=all"], "backbone_layers", "all", "--backbone-layers"),
        (["--trunk-learning-rate", "0.1"], "backbone_learning_rate", 0.1, "--backbone-learning-rate"),
        (["--trunk-weight-decay", "0.1"], "backbone_weight_decay", 0.1, "--backbone-weight-decay"),
        (["--ladder", "bert2,static"], "student_names", ("bert2", "static"), "--students"),
    ],
)
def test_renamed_flag_still_works_and_names_the_new_one(
    flags: list[str], field: str, value: object, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert getattr(read_settings(ExportSettings, flags), field) == value
    assert f"is now {new}: the old name will not work in the next release" in capsys.readouterr().err


def test_renamed_variable_still_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWIFTREC_EXPORT_TRUNK", "frozen")
    assert read_settings(ExportSettings, []).backbone_layers == "frozen"  # and not the preset's
    assert "SWIFTREC_EXPORT_TRUNK is now SWIFTREC_EXPORT_BACKBONE_LAYERS" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--moves", "along"], ["--relations", "10"], ["--ema", ".9"], ["--pull", "1"], ["--small-ranker", "auto"]]
)
def test_removed_flag_is_refused_as_unknown(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"^unknown argument {flags[0]}: swiftrec export --help lists the flags$"):
        read_settings(ExportSettings, flags)
