"""A variable with our prefix that sets nothing is reported; those of Kubernetes and of other programs are not."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from pydantic_settings import BaseSettings

from swiftrec.ask import AskSettings
from swiftrec.benchmarks import __main__ as benchmarks
from swiftrec.export.config import ExportSettings
from swiftrec.export.data import doctor
from swiftrec.export.planted.command import PlantedSettings
from swiftrec.export.seeds.settings import SeedsSettings
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ConfigError
from swiftrec.server.flags import with_flags
from swiftrec.server.settings_reader import read_settings
from swiftrec.server.tuning.tune import TuneSettings
from swiftrec.server.variables import unread_variables

_VERSION = f"swiftrec {version('swiftrec')}\n"
_KUBERNETES = {
    "SWIFTREC_SERVICE_HOST": "10.0.0.11",
    "SWIFTREC_SERVICE_PORT": "8001",
    "SWIFTREC_SERVICE_PORT_GRPC": "8001",
    "SWIFTREC_PORT": "tcp://10.0.0.11:8001",
    "SWIFTREC_PORT_8001_TCP": "tcp://10.0.0.11:8001",
    "SWIFTREC_PORT_8001_TCP_PROTO": "tcp",
    "SWIFTREC_PORT_8001_TCP_PORT": "8001",
    "SWIFTREC_PORT_8001_TCP_ADDR": "10.0.0.11",
    "SWIFTREC_METRICS_SERVICE_HOST": "10.0.0.12",
    "SWIFTREC_METRICS_PORT": "tcp://10.0.0.12:8002",
    "SWIFTREC_METRICS_PORT_8002_UDP_ADDR": "10.0.0.12",
    "SWIFTREC_CANARY_PORT": "TCP://10.0.0.13:8001",
}


def test_variables_of_a_kubernetes_service_set_nothing_and_are_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _KUBERNETES.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(ServerSettings, ["--bundle", "x"], [TuneSettings])
    assert (settings.port, settings.metrics_port) == (8001, 8002)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "value"), [("SWIFTREC_PORT", "tcp"), ("SWIFTREC_HOST", "tcp://10.0.0.11:8001")])
def test_invalid_value_that_kubernetes_does_not_set_is_rejected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=value):
        read_settings(ServerSettings, ["--bundle", "x"])


def test_flag_that_looks_like_kubernetes_is_rejected() -> None:
    with pytest.raises(ConfigError, match="--port: "):
        read_settings(ServerSettings, ["--bundle", "x", "--port", "tcp://10.0.0.11:8001"])


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("SWIFTREC_PROT", "SWIFTREC_PORT"),
        ("SWIFTREC_TOKENFILE", "SWIFTREC_TOKEN_FILE"),
        ("swiftrec_hots", "SWIFTREC_HOST"),
    ],
)
def test_misspelt_variable_is_reported_with_the_most_similar_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, similar: str
) -> None:
    monkeypatch.setenv(name, "1")
    read_settings(ServerSettings, ["--bundle", "x"], [TuneSettings])
    assert (
        capsys.readouterr().err
        == f"swiftrec serve: warning: {name} is not a setting and is ignored: did you mean {similar}?\n"
    )


def test_unknown_variable_without_a_similar_one_points_to_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFTREC_QQQQQQQQ", "1")
    read_settings(ServerSettings, ["--bundle", "x"])
    assert "SWIFTREC_QQQQQQQQ is not a setting and is ignored: swiftrec serve --help" in capsys.readouterr().err


def test_settings_of_the_program_and_of_other_programs_are_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (
        "SWIFTREC_PORT",
        "SWIFTREC_SECONDS",
        "SWIFTREC_EXPORT_BACKBONE_LAYERS",
        "SWIFTREC_EXPORT_NO_SUCH",
        "SWIFTREC_PLANTED_SEED",
    ):
        monkeypatch.setenv(name, "2")
    read_settings(ServerSettings, ["--bundle", "x"], [TuneSettings])
    assert capsys.readouterr().err == ""


def test_export_reports_only_variables_with_its_own_prefix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFTREC_EXPORT_EPOCH", "2")
    monkeypatch.setenv("SWIFTREC_PROT", "2")
    read_settings(ExportSettings, [])
    warnings = capsys.readouterr().err
    assert (
        "swiftrec export: warning: SWIFTREC_EXPORT_EPOCH is not a setting and is ignored: did you mean SWIFTREC_EXPORT_"
        in warnings
    )
    assert "PROT " not in warnings


_KINDS = [
    ServerSettings,
    TuneSettings,
    ExportSettings,
    doctor.DoctorSettings,
    PlantedSettings,
    SeedsSettings,
    AskSettings,
]
_KINDS += [kind for kind, _ in benchmarks._TOOLS.values()]


def read(kind: type[BaseSettings]) -> str:
    """The settings from the environment and the required flags, or the error."""
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    flags = [f"--{name.replace('_', '-')}=1" for name in required if not is_positional(kind, name)]
    try:
        return repr(read_settings(kind, [*flags, *("1" for name in required if is_positional(kind, name))]))
    except ConfigError as error:
        return str(error)


def is_positional(kind: type[BaseSettings], name: str) -> bool:
    return "Positional" in repr(kind.model_fields[name].metadata)


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_empty_variable_counts_as_not_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: type[BaseSettings]
) -> None:
    variables = [f"{kind.model_config.get('env_prefix', '')}{name}".upper() for name in kind.model_fields]
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    expected = read(kind)
    for variable in variables:
        monkeypatch.setenv(variable, "")
    assert read(kind) == expected
    assert capsys.readouterr().err == ""


def test_empty_variable_other_than_a_setting_is_not_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFTREC_PROT", "")
    read_settings(ServerSettings, ["--bundle", "x"])
    assert capsys.readouterr().err == ""


def test_program_without_variables_reports_none() -> None:
    assert list(unread_variables({"SWIFTREC_X": "1"}, "", ["x"])) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--a 1 --b=2", ["--a", "1", "--b=2"]),
        ("--data '/x/my data' \"$HOME\" `id` $(id)", ["--data", "/x/my data", "$HOME", "`id`", "$(id)"]),
        (r"""a\ b "c \" d" é""", ["a b", 'c " d', "é"]),
        ("# no comment; x | y > z", ["#", "no", "comment;", "x", "|", "y", ">", "z"]),
        ("", []),
    ],
)
def test_variable_is_split_as_a_shell_would(text: str, words: list[str]) -> None:
    assert with_flags(["x", "--flags-from", "MORE", "y"], {"MORE": text}) == ["x", *words, "y"]


def test_variable_is_read_only_with_the_flag() -> None:
    assert with_flags(["x"], {"MORE": "y"}) == ["x"]
    assert with_flags(["x", "--flags-from", "MORE"], {}) == ["x"]
    assert with_flags(["--flags-from"], {}) == []


def test_unclosed_quote_is_rejected_with_the_name_of_the_variable() -> None:
    with pytest.raises(ConfigError, match=r"^MORE: No closing quotation, got .*: close the quote"):
        with_flags(["--flags-from", "MORE"], {"MORE": "it's"})
