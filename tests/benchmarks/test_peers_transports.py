"""Transports to other servers, and how their processes end: no request is sent twice, no process is left."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swiftrec.benchmarks.peers import process_tree
from swiftrec.benchmarks.peers.process_tree import StartError, descendants, free_ports, launched
from swiftrec.benchmarks.peers.transports import UNKNOWN, Transport, connected
from swiftrec.benchmarks.statistics import OK, UNAVAILABLE
from tests.benchmarks.peers import CORE

# Ignores SIGTERM and has a grandchild that left its session, whose parent is gone.
STUBBORN = [sys.executable, "-c", """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: sum(range(1000))
    os._exit(0)
os.wait()
print("ready", flush=True)
time.sleep(600)
"""]  # fmt: skip


@contextmanager
def http_server(*answers: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that gives one connection after the other to `answers`, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                with server.accept()[0] as connection:
                    answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def ask_once(transport: Transport, port: int, request: bytes = b"GET / HTTP/1.1\r\n\r\n") -> tuple[int, bytes]:
    result: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    with connected(transport, port, "/a.B/C", CORE) as ask:
        ask(request, lambda code, reply: result.put((code, reply)))
        answer = result.get(timeout=20)
    assert result.empty()
    return answer


def test_an_http_reply_in_pieces_is_put_together() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1_000)
        for piece in (b"HTTP/1.1 200 OK\r\ncontent-", b"LENGTH: 5\r\n\r\nhe", b"llo"):
            connection.sendall(piece)
        connection.recv(1_000)

    with http_server(answer) as port:
        assert ask_once("http", port) == (OK, b"hello")


@pytest.mark.parametrize(
    ("reply", "code"),
    [(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", UNKNOWN), (b"", UNAVAILABLE), (b"HTTP/1.1 200", UNAVAILABLE)],
)
def test_an_http_server_that_refuses_or_hangs_up_gives_a_code(reply: bytes, code: int) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(reply)

    with http_server(answer) as port:
        assert ask_once("http", port)[0] == code


def good(connection: socket.socket) -> None:
    connection.recv(1_000)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


def closes_on_the_second(connection: socket.socket) -> None:
    """As a server does whose keep-alive ends just when the next request comes."""
    good(connection)
    connection.recv(1_000)


def closes(connection: socket.socket) -> None:
    connection.recv(1_000)


def ask_twice(port: int) -> list[int]:
    """The status of two requests, one after the other."""
    result: queue.SimpleQueue[int] = queue.SimpleQueue()
    codes = []
    with connected("http", port, "", CORE) as ask:
        for _ in range(2):
            ask(b"GET / HTTP/1.1\r\n\r\n", lambda code, _reply: result.put(code))
            codes.append(result.get(timeout=20))
    return codes


def test_a_kept_connection_that_ends_is_asked_again_on_a_new_one() -> None:
    with http_server(closes_on_the_second, good) as port:
        assert ask_twice(port) == [OK, OK]


def test_a_request_is_sent_again_only_once() -> None:
    """Negative control: a server that closes whatever it is asked is not asked for ever."""
    with http_server(closes_on_the_second, closes, good) as port:
        assert ask_twice(port) == [OK, UNAVAILABLE]


def test_a_refusal_says_why() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nfull")

    with http_server(refuse) as port:
        assert ask_once("http", port) == (UNKNOWN, b"HTTP/1.1 503 Busy full")


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_no_server_gives_a_code(transport: Transport) -> None:
    assert ask_once(transport, free_ports(1)[0])[0] == UNAVAILABLE


def test_a_port_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(2)
    monkeypatch.setattr(process_tree, "_PORTS", (first, second))
    assert sorted(free_ports(2)) == sorted([first, second])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        assert free_ports(1) == [second]
        monkeypatch.setattr(process_tree, "_PORTS", (first,))
        with pytest.raises(StartError, match="no 1 free ports"):
            free_ports(1)


def test_all_processes_of_a_server_are_counted_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_STOP_S", 0.2)
    log = tmp_path / "log"
    with launched(STUBBORN, dict(os.environ), CORE, log) as running:
        running.wait_until(lambda: "ready" in log.read_text(), 20)
        members = running.members()
        before = running.cpu_s()
        running.wait_until(lambda: running.cpu_s() > before + 0.05, 20)
    assert len(members) == 2
    assert members.isdisjoint(descendants(os.getpid()))
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)


def test_a_server_and_all_that_it_starts_run_on_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_tree, "_STOP_S", 0.2)
    log, core = tmp_path / "log", max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    with launched(STUBBORN, dict(os.environ), core, log) as running:
        running.wait_until(lambda: "ready" in log.read_text(), 20)
        assert {frozenset(os.sched_getaffinity(pid)) for pid in running.members()} == {frozenset({core})}
        assert os.sched_getaffinity(0) == before


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    talks = [sys.executable, "-c", "raise SystemExit('glibc 2.38 is needed')"]
    with (
        launched(talks, dict(os.environ), CORE, tmp_path / "log") as running,
        pytest.raises(StartError, match=r"exit code 1: glibc 2\.38 is needed"),
    ):
        running.wait_until(lambda: False, 20)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with launched([sys.executable, "-c", "input()"], dict(os.environ), CORE, tmp_path / "log") as running:
        running.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StartError, match=r"no correct response within 0\.3 s"):
            running.wait_until(lambda: False, 0.3)
        running.process.send_signal(signal.SIGCONT)
