"""Variables that begin like ours and set nothing are named; those of Kubernetes and of other programs are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version

import pytest
from pydantic_settings import BaseSettings

from swiftrec.ask import AskSettings
from swiftrec.benchmarks import __main__ as benchmarks
from swiftrec.benchmarks.peers.__main__ import PeersSettings
from swiftrec.export.config import ExportSettings
from swiftrec.export.data import doctor
from swiftrec.export.planted.command import PlantedSettings
from swiftrec.export.report import promises
from swiftrec.export.seeds.settings import SeedsSettings
from swiftrec.server.__main__ import main as server_main
from swiftrec.server.config import ServerSettings, read_settings
from swiftrec.server.errors import ConfigError
from swiftrec.server.tuning.tune import TuneSettings
from swiftrec.server.variables import unread_variables
from tests.conftest import ROOT

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


def test_variables_of_a_kubernetes_service_set_nothing_and_are_not_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _KUBERNETES.items():
        monkeypatch.setenv(name, value)
    settings = read_settings(ServerSettings, ["--bundle", "x"], [TuneSettings])
    assert (settings.port, settings.metrics_port) == (8001, 8002)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "value"), [("SWIFTREC_PORT", "tcp"), ("SWIFTREC_HOST", "tcp://10.0.0.11:8001")])
def test_wrong_values_are_refused_all_the_same(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=value):
        read_settings(ServerSettings, ["--bundle", "x"])


def test_flag_that_looks_like_kubernetes_is_refused() -> None:
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
def test_misspelt_variable_is_named_with_the_one_it_resembles(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, similar: str
) -> None:
    monkeypatch.setenv(name, "1")
    read_settings(ServerSettings, ["--bundle", "x"], [TuneSettings])
    assert capsys.readouterr().err == f"server: warning: {name} is no setting and is ignored: did you mean {similar}?\n"


def test_variable_that_resembles_none_points_to_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFTREC_QQQQQQQQ", "1")
    read_settings(ServerSettings, ["--bundle", "x"])
    assert "SWIFTREC_QQQQQQQQ is no setting and is ignored: swiftrec serve --help" in capsys.readouterr().err


def test_settings_of_the_program_and_of_its_neighbours_are_not_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (
        "SWIFTREC_PORT",
        "SWIFTREC_SECONDS",
        "SWIFTREC_EXPORT_TRUNK",
        "SWIFTREC_EXPORT_NO_SUCH",
        "SWIFTREC_PLANTED_SEED",
    ):
        monkeypatch.setenv(name, "2")
    read_settings(ServerSettings, ["--bundle", "x"], [TuneSettings])
    assert capsys.readouterr().err == ""


def test_export_names_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWIFTREC_EXPORT_EPOCH", "2")
    monkeypatch.setenv("SWIFTREC_PROT", "2")
    read_settings(ExportSettings, [])
    said = capsys.readouterr().err
    assert "export: warning: SWIFTREC_EXPORT_EPOCH is no setting and is ignored: did you mean SWIFTREC_EXPORT_" in said
    assert "PROT " not in said


_KINDS = [
    ServerSettings,
    TuneSettings,
    ExportSettings,
    doctor.DoctorSettings,
    PlantedSettings,
    SeedsSettings,
    AskSettings,
]
_KINDS += [PeersSettings, *(kind for kind, _ in benchmarks._COMMANDS.values())]


def read(kind: type[BaseSettings]) -> str:
    """What is read from the environment and the flags that the settings cannot do without, or why it is refused."""
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    flags = [f"--{name.replace('_', '-')}=1" for name in required if not is_positional(kind, name)]
    try:
        return repr(read_settings(kind, [*flags, *("1" for name in required if is_positional(kind, name))]))
    except ConfigError as error:
        return str(error)


def is_positional(kind: type[BaseSettings], name: str) -> bool:
    return "Positional" in repr(kind.model_fields[name].metadata)


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.__name__)
def test_empty_variable_is_not_set_whatever_the_setting(
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


def test_empty_variable_that_is_no_setting_is_not_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWIFTREC_PROT", "")
    read_settings(ServerSettings, ["--bundle", "x"])
    assert capsys.readouterr().err == ""


def test_program_without_variables_names_none() -> None:
    assert list(unread_variables({"SWIFTREC_X": "1"}, "", ["x"])) == []


@pytest.mark.parametrize("program", ["server", "export", "benchmarks", "swiftrec.benchmarks.peers", "examples.ask"])
def test_version_is_printed_by_every_program(program: str) -> None:
    command = [sys.executable, "-m", program, "--version"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, _VERSION, "")


@pytest.mark.parametrize(
    "command",
    [
        lambda: server_main(["tune", "--version"]),
        lambda: server_main(["probe", "--version"]),
        lambda: doctor.main(["--version"]),
        lambda: promises.main(["--version"]),
        lambda: benchmarks.main(["load", "--version"]),
    ],
)
def test_version_is_printed_by_their_commands(command: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command()
    assert (ended.value.code, capsys.readouterr().out) == (0, _VERSION)


@pytest.mark.parametrize("kind", [ServerSettings, ExportSettings])
def test_help_names_the_version_flag(kind: type[ServerSettings], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_settings(kind, ["--help"])
    assert "--version" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "commands"),
    [(ServerSettings, ("tune", "probe")), (ExportSettings, ("doctor", "teacher", "report", "targets", "where"))],
)
def test_help_names_the_other_commands(
    kind: type[ServerSettings | ExportSettings], commands: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_settings(kind, ["--help"])
    listed = capsys.readouterr().out.partition("Other commands:")[2].partition("options:")[0]
    program = str(kind.model_config.get("cli_prog_name"))
    assert [command for command in commands if f"{program} {command} " not in listed] == []
