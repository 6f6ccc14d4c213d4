"""How other servers are reached and ended: nothing is asked twice, nobody is left behind."""

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

from benchmarks.peers import family
from benchmarks.peers.family import StartError, descendants, free_ports, launched
from benchmarks.peers.wire import UNKNOWN, Wire, connected
from benchmarks.summary import OK, UNAVAILABLE
from tests.peers import CORE

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
def http_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that gives one connection to `answer`, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def ask_once(wire: Wire, port: int, request: bytes = b"GET / HTTP/1.1\r\n\r\n") -> tuple[int, bytes]:
    found: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    with connected(wire, port, "/a.B/C", CORE) as ask:
        ask(request, lambda code, reply: found.put((code, reply)))
        answer = found.get(timeout=20)
    assert found.empty()
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


@pytest.mark.parametrize("wire", ["http", "grpc", "stream"])
def test_nobody_there_gives_a_code(wire: Wire) -> None:
    assert ask_once(wire, free_ports(1)[0])[0] == UNAVAILABLE


def test_all_processes_of_a_server_are_counted_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "_STOP_S", 0.2)
    log = tmp_path / "log"
    with launched(STUBBORN, dict(os.environ), CORE, log) as running:
        running.wait_until(lambda: "ready" in log.read_text(), 20)
        members = running.members()
        before = sum(running.cpu_s().values())
        running.wait_until(lambda: sum(running.cpu_s().values()) > before + 0.05, 20)
    assert len(members) == 2
    assert members.isdisjoint(descendants(os.getpid()))
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)


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
        with pytest.raises(StartError, match=r"no right answer within 0\.3 s"):
            running.wait_until(lambda: False, 0.3)
        running.process.send_signal(signal.SIGCONT)
