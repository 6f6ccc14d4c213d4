"""The HTTP port for monitoring: probes, metrics and nothing else."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry, Gauge

from swiftrec.server.telemetry.http import MAX_CONNECTIONS, MonitoringServer
from tests.until import LONG, until


@dataclass
class State:
    """What the probes say."""

    fault: str = ""
    obstacle: str = ""


@dataclass(frozen=True)
class Port:
    """A running port and the state behind it."""

    number: int
    state: State

    def ask(self, path: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.number, timeout=10)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode(), dict(reply.getheaders())
        finally:
            connection.close()


@pytest.fixture
def port() -> Iterator[Port]:
    state, registry = State(), CollectorRegistry()
    Gauge("swiftrec_made_up", "For this test", registry=registry).set(7)
    server = MonitoringServer("127.0.0.1", 0, registry, lambda: state.fault, lambda: state.obstacle)
    server.start()
    yield Port(server.port, state)
    server.stop()


def test_probes_succeed_while_the_server_is_healthy(port: Port) -> None:
    assert port.ask("/healthz")[:2] == port.ask("/readyz")[:2] == (200, "ok\n")


def test_probes_fail_with_the_reason(port: Port) -> None:
    port.state.obstacle = "the server is starting"
    assert port.ask("/readyz")[:2] == (503, "the server is starting\n")
    assert port.ask("/healthz")[0] == 200
    port.state.fault = "a thread has died"
    assert port.ask("/healthz")[:2] == (503, "a thread has died\n")


def test_metrics_are_served_only_at_their_path(port: Port) -> None:
    assert "swiftrec_made_up 7.0" in port.ask("/metrics")[1]
    assert "swiftrec_made_up 7.0" in port.ask("/metrics?name[]=swiftrec_made_up")[1]
    assert "swiftrec_made_up" not in port.ask("/metrics?name[]=other")[1]


@pytest.mark.parametrize(
    "path", ["/", "/metrics/", "/metrics/x", "/health", "/readyz/", "/favicon.ico", "/%2e%2e/metrics"]
)
def test_any_other_path_is_not_found(port: Port, path: str) -> None:
    status, text, _ = port.ask(path)
    assert (status, "/metrics, /healthz and /readyz" in text) == (404, True)


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(port: Port, path: str, method: str) -> None:
    status, _, headers = port.ask(path, method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/other"])
def test_head_has_the_status_and_no_body(port: Port, path: str) -> None:
    status, text, headers = port.ask(path, "HEAD")
    assert (status, text) == (port.ask(path)[0], "")
    assert int(headers["Content-Length"]) > 0  # of the body that GET has


def test_silent_client_does_not_delay_other_clients(port: Port) -> None:
    with socket.create_connection(("127.0.0.1", port.number)):
        assert port.ask("/healthz")[0] == 200


def test_ipv6_address_is_served() -> None:
    server = MonitoringServer("::1", 0, CollectorRegistry(), lambda: "", lambda: "")
    server.start()
    with socket.create_connection(("::1", server.port)) as client:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().startswith(b"HTTP/1.0 200")
    server.stop()


@contextmanager
def held_connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Clients that say nothing, oldest first."""
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), LONG)) for _ in range(number)]


def answering() -> int:
    """Threads of the port."""
    return sum(thread.name.startswith("monitoring") for thread in threading.enumerate())


def test_many_silent_clients_do_not_block_a_probe(port: Port) -> None:
    until(lambda: answering() == MAX_CONNECTIONS + 1)  # threads of earlier servers may still be ending
    before = answering()
    with held_connections(port.number, 3 * MAX_CONNECTIONS) as clients:
        assert port.ask("/healthz")[0] == 200
        assert answering() == before == MAX_CONNECTIONS + 1  # and the one that accepts
        assert clients[0].recv(1) == b""  # the oldest was cut for a newer one


def test_connections_up_to_the_limit_are_all_answered(port: Port) -> None:
    with held_connections(port.number, MAX_CONNECTIONS) as clients:
        for client in clients:
            client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
            assert client.makefile("rb").read().startswith(b"HTTP/1.0 200")


def test_connection_is_closed_at_its_time_limit_while_bytes_still_arrive() -> None:
    server = MonitoringServer("127.0.0.1", 0, CollectorRegistry(), lambda: "", lambda: "", timeout_s=0.1)
    server.start()
    try:
        with socket.create_connection(("127.0.0.1", server.port), LONG) as client:
            drip_until_closed(client)
    finally:
        server.stop()


def drip_until_closed(client: socket.socket) -> None:
    """Send a header that never ends, byte by byte, until the server closes the connection."""
    client.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
    client.settimeout(0.01)
    ends = time.monotonic() + LONG
    while time.monotonic() < ends:
        try:
            client.sendall(b"x")
            if client.recv(1) == b"":
                return
        except TimeoutError:
            continue
        except ConnectionError:
            return
    pytest.fail("the connection was not closed")
