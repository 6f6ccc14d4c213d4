"""Hosts as they are given, and addresses as clients need them."""

from __future__ import annotations

import socket

import pytest

from swiftrec.server.addresses import is_loopback, join_address, listen_problem, parse_host, reachable_host
from swiftrec.server.config import ServerSettings, read_settings
from swiftrec.server.errors import ConfigError


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
def test_host_is_written_as_urls_and_grpc_have_it(given: str, host: str, address: str) -> None:
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
def test_anything_else_is_one_sentence(given: str, sentence: str, flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(ServerSettings, ["--bundle", "x", f"{flag}={given}"])
    assert str(caught.value).startswith(f"{flag}: ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("host", "expected"), [("::1", True), ("127.0.0.9", True), ("LocalHost", True), ("::", False)])
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_bracketed_loopback_needs_no_tls() -> None:
    assert read_settings(ServerSettings, ["--bundle", "x", "--host", "[::1]"]).host == "::1"
    with pytest.raises(ConfigError, match="reachable from other machines"):
        read_settings(ServerSettings, ["--bundle", "x", "--host", "[::]"])


@pytest.mark.parametrize(("host", "expected"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")])  # noqa: S104
def test_wildcard_is_reached_by_loopback(host: str, expected: str) -> None:
    assert reachable_host(host) == expected


def test_problem_of_an_address_is_told_apart() -> None:
    assert listen_problem("127.0.0.1", 0) == ""
    assert "does not resolve" in listen_problem("no-such-host.invalid", 0)
    assert "does not have that address" in listen_problem("192.0.2.1", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "the port is in use" in listen_problem("127.0.0.1", taken.getsockname()[1])
