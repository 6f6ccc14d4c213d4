"""Settings from flags and the environment, and the hosts that they accept."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from swiftrec.server.addresses import is_loopback, join_address, listen_problem, parse_host, reachable_host
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ConfigError
from swiftrec.server.parts import PARTS
from swiftrec.server.settings_reader import read_settings


class Numbers(BaseSettings):
    """A list that pydantic reads as JSON."""

    swiftrec_numbers: list[int] = []


@pytest.mark.parametrize(
    ("value", "folders"),
    [
        ("artifacts/x", ["artifacts/x"]),
        ("a,b", ["a", "b"]),
        ("a, b,", ["a", "b"]),
        ("[a", ["[a"]),
    ],
)
def test_bundle_variable_is_a_list_with_commas(monkeypatch: pytest.MonkeyPatch, value: str, folders: list[str]) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", value)
    assert read_settings(ServerSettings, []).bundle == [Path(folder) for folder in folders]


def test_bundle_flag_may_be_given_again() -> None:
    assert read_settings(ServerSettings, ["--bundle", "a", "--bundle", "b"]).bundle == [Path("a"), Path("b")]
    assert read_settings(ServerSettings, ["--bundle", "a"]).bundle == [Path("a")]


@pytest.mark.parametrize("given", [["a,b"], ["a,b", "c"], ["/x/a, b,,c"], ['["a","b"]'], ['"a"'], ["[a"]])
def test_bundle_flag_accepts_any_character(given: list[str]) -> None:
    flags = [word for folder in given for word in ("--bundle", folder)]
    assert read_settings(ServerSettings, flags).bundle == [Path(folder) for folder in given]


def test_bundle_variable_may_name_a_folder_with_a_comma(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, other = tmp_path / "a, b,c", tmp_path / "d"
    folder.mkdir()
    other.mkdir()
    for value, expected in (
        (f"{folder}", [folder]),
        (f"{other}, {folder} ,x", [other, folder, Path("x")]),
        (f"{folder},{other}", [folder, other]),
        (f"{other},{'x' * 5_000}", [other, Path("x" * 5_000)]),
    ):
        monkeypatch.setenv("SWIFTREC_BUNDLE", value)
        assert read_settings(ServerSettings, []).bundle == expected


def test_ambiguous_bundle_variable_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short, long = tmp_path / "a", tmp_path / "a,b"
    short.mkdir()
    long.mkdir()
    monkeypatch.setenv("SWIFTREC_BUNDLE", f"{long}")
    with pytest.raises(ConfigError) as caught:
        read_settings(ServerSettings, [])
    assert f"--bundle: the variable has commas between folders, and {short} and {long} both exist" in str(caught.value)
    assert "use the flag" in str(caught.value)
    assert read_settings(ServerSettings, ["--bundle", f"{long}"]).bundle == [long]


@pytest.mark.parametrize("value", [",", " , "])
def test_variable_without_a_folder_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", value)
    with pytest.raises(ConfigError, match=r"^--bundle: give a folder, got "):
        read_settings(ServerSettings, [])


def test_empty_bundle_flag_is_refused() -> None:
    with pytest.raises(ConfigError, match="--bundle: give a folder"):
        read_settings(ServerSettings, ["--bundle", ""])


def test_flag_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_BUNDLE", "a")
    assert read_settings(ServerSettings, ["--bundle", "b"]).bundle == [Path("b")]


def test_variable_that_pydantic_cannot_parse_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWIFTREC_NUMBERS", "one")
    with pytest.raises(ConfigError, match=r"cannot be read: .*swiftrec_numbers"):
        read_settings(Numbers, [])


@pytest.mark.parametrize("value", ["ranker", "memory,words", ",".join(PARTS)])
def test_parts_of_the_score_are_named(value: str) -> None:
    assert read_settings(ServerSettings, ["--bundle", "x", "--parts", value]).parts == value


@pytest.mark.parametrize(("value", "wrong"), [("ranker,wurds", "'wurds'"), ("", "''"), ("ranker,,memory", "''")])
def test_unknown_part_is_refused_with_the_names_of_all(value: str, wrong: str) -> None:
    said = f"--parts: {wrong} is not a part of the score: give some of {', '.join(PARTS)}, separated by commas"
    with pytest.raises(ConfigError, match=said):
        read_settings(ServerSettings, ["--bundle", "x", "--parts", value])


@pytest.mark.parametrize("kind", ["missing", "file", "name of 5,000 letters"])
def test_repository_that_is_not_a_folder_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("x" * 5_000 if "letters" in kind else kind)
    if kind == "file":
        path.touch()
    with pytest.raises(ConfigError) as caught:
        read_settings(ServerSettings, ["--bundle", "x", "--repository", f"{path}"])
    assert re.fullmatch(
        rf"--repository: not a readable folder \([A-Za-z ]+\): create it, or give another, got '{path}'",
        str(caught.value),
    )
    assert read_settings(ServerSettings, ["--bundle", "x", "--repository", f"{tmp_path}"]).repository == tmp_path


@pytest.mark.parametrize(
    ("given", "host", "address"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:8001"),
        ("::1", "::1", "[::1]:8001"),
        ("[::1]", "::1", "[::1]:8001"),
        (" localhost ", "localhost", "localhost:8001"),
        ("recommender.example", "recommender.example", "recommender.example:8001"),
        ("a_b-c.d", "a_b-c.d", "a_b-c.d:8001"),
        ("recommender.example.", "recommender.example.", "recommender.example.:8001"),
        ("a" * 63, "a" * 63, f"{'a' * 63}:8001"),
        ("fe80::1%eth0", "fe80::1%eth0", "[fe80::1%eth0]:8001"),
    ],
)
def test_host_is_parsed_and_joined_with_the_port(given: str, host: str, address: str) -> None:
    assert parse_host(given) == host
    assert join_address(host, 8001) == address


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("", "an address or a host name is needed"),
        ("unix:/tmp/x", "Unix sockets are not served: give an address"),
        ("unix-abstract:x", "Unix sockets are not served"),
        ("/run/x", "Unix sockets are not served"),
        ("127.0.0.1:8001", "the port is another setting"),
        ("[::1]:8001", "the port is another setting"),
        ("localhost:1", "the port is another setting"),
        ("[localhost]", "brackets hold an IPv6 address"),
        ("[127.0.0.1]", "brackets hold an IPv6 address"),
        ("http://localhost", "without scheme, port or path"),
        ("dns:///localhost", "without scheme, port or path"),
        ("a b", "without scheme, port or path"),
        ("::1]", "without scheme, port or path"),
        ("a" * 64, "without scheme, port or path"),  # a label has 63 characters at most
        ("a..b", "without scheme, port or path"),
        (".".join(["a" * 60] * 5), "without scheme, port or path"),
    ],
)
@pytest.mark.parametrize("flag", ["--host", "--metrics-host"])
def test_invalid_host_is_refused_in_one_sentence(given: str, sentence: str, flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(ServerSettings, ["--bundle", "x", f"{flag}={given}"])
    assert str(caught.value).startswith(f"{flag}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("host", "expected"), [("::1", True), ("127.0.0.9", True), ("LocalHost", True), ("::", False)])
def test_loopback_addresses_are_recognised(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_bracketed_loopback_needs_no_tls() -> None:
    assert read_settings(ServerSettings, ["--bundle", "x", "--host", "[::1]"]).host == "::1"
    with pytest.raises(ConfigError, match="reachable from other machines"):
        read_settings(ServerSettings, ["--bundle", "x", "--host", "[::]"])


@pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")])  # noqa: S104
def test_wildcard_address_is_replaced_by_loopback_for_clients(host: str, expected: str) -> None:
    assert reachable_host(host) == expected


def test_each_problem_of_an_address_has_its_sentence() -> None:
    assert listen_problem("127.0.0.1", 0) == ""
    assert "does not resolve" in listen_problem("no-such-host.invalid", 0)
    assert "does not have that address" in listen_problem("192.0.2.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "the port is in use" in listen_problem("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("--max-waiting-jobs", "--max-queue-requests", "max_queue_requests"),
        ("--max-waiting-tokens", "--max-queue-tokens", "max_queue_tokens"),
        ("--max-batch-jobs", "--max-batch-size", "max_batch_size"),
    ],
)
def test_old_flags_work_with_a_warning(old: str, new: str, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = read_settings(ServerSettings, ["--bundle", "b", old, "512"])
    assert getattr(settings, field) == 512
    assert f"{old} is now {new}" in capsys.readouterr().err
