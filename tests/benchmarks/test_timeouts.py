"""Servers that may keep a client waiting in a benchmark answer as late as the client listens."""

from __future__ import annotations

from swiftrec.benchmarks.client import TIMEOUT_S
from swiftrec.benchmarks.overload import OPEN_DOOR
from swiftrec.benchmarks.peers.rounds import our_command
from swiftrec.benchmarks.teacher import TeacherSettings, _commands
from swiftrec.server.config import ServerSettings, read_settings
from tests.benchmarks.peers import scores, setting


def _timeout_s(flags: list[str]) -> float:
    return read_settings(ServerSettings, flags).default_timeout_ms / 1e3


def test_our_server_among_the_peers_waits_as_long_as_the_client() -> None:
    assert _timeout_s(our_command(setting(scores()), 1)[3:]) == TIMEOUT_S


def test_our_server_does_the_job_of_the_others() -> None:
    command = our_command(setting(scores()), 1)
    assert command[command.index("--parts") + 1] == "ranker"


def test_student_and_teacher_wait_as_long_as_the_client() -> None:
    for command in _commands(TeacherSettings(_cli_parse_args=[])):
        assert _timeout_s(command[command.index("--bundle") :]) == TIMEOUT_S


def test_control_without_admission_refuses_nothing_for_its_deadline() -> None:
    assert _timeout_s(["--bundle", "x", *OPEN_DOOR]) >= TIMEOUT_S
