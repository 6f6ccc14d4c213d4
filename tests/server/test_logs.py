"""Log lines are written by a separate thread: logging never blocks, and lines that cannot be written are counted."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TextIO

import grpc
import psutil
import pytest

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.output import make_nonblocking, write_text
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.telemetry.logs import MAX_WAITING_LINES, JsonFormatter, LineHandler
from tests.conftest import ROOT
from tests.server.support.process import server_command
from tests.until import LONG, until

_EXTRA = 50


class Log:
    """A logger whose lines go to a descriptor, and the number of lines that it dropped."""

    def __init__(self, descriptor: int | None) -> None:
        self.dropped = 0
        self.handler = LineHandler(descriptor, self._drop)
        self.handler.setFormatter(JsonFormatter())
        self._logger = logging.Logger("test")
        self._logger.addHandler(self.handler)

    def say(self, lines: int) -> None:
        for n in range(lines):
            self._logger.info("line %d", n)

    def _drop(self) -> None:
        self.dropped += 1


@contextmanager
def pipe(*, is_blocking: bool, is_full: bool = False) -> Iterator[tuple[int, int]]:
    """Both ends of a pipe: where to read, where to write."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    while is_full:
        try:
            os.write(writer, b"x" * 4_096)
        except BlockingIOError:
            break
    os.set_blocking(writer, is_blocking)
    try:
        yield reader, writer
    finally:
        os.close(writer)
        os.close(reader)


@pytest.mark.parametrize("is_blocking", [True, False])
def test_lines_arrive_in_order(is_blocking: bool) -> None:
    with pipe(is_blocking=is_blocking) as (reader, writer):
        log = Log(writer)
        log.handler.start()
        log.say(3)
        log.handler.flush()
        rows = [json.loads(line) for line in os.read(reader, 65_536).splitlines()]
    assert ([row["message"] for row in rows], log.dropped) == (["line 0", "line 1", "line 2"], 0)


@pytest.mark.parametrize("is_blocking", [True, False])
def test_lines_beyond_the_limit_are_dropped_and_counted_while_the_pipe_is_full(is_blocking: bool) -> None:
    with pipe(is_blocking=is_blocking, is_full=True) as (reader, writer):
        log = Log(writer)
        log.say(MAX_WAITING_LINES + _EXTRA)
        assert log.dropped == _EXTRA
        log.handler.start()
        log.say(_EXTRA)
        assert log.dropped >= 2 * _EXTRA - 1  # the thread may hold a line
        seen = b""
        while seen.count(b"\n") < MAX_WAITING_LINES:  # of a reader that has come back
            seen += os.read(reader, 65_536)
        log.handler.flush()
        before = log.dropped
        log.say(1)
        log.handler.flush()
        assert os.read(reader, 65_536).count(b"\n") >= 1
        assert log.dropped == before


def test_every_line_is_dropped_when_nothing_can_be_written() -> None:
    with Path("/dev/full").open("wb") as full, pipe(is_blocking=True) as (_, writer):
        reader, orphan = os.pipe()
        os.close(reader)
        closed = os.dup(writer)
        os.close(closed)
        for descriptor in (full.fileno(), orphan, closed, None):
            log = Log(descriptor)
            log.handler.start()
            log.say(3)
            log.handler.flush()
            assert log.dropped == 3
        os.close(orphan)


def test_record_that_cannot_be_formatted_does_not_affect_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pipe(is_blocking=True) as (reader, writer):
        log = Log(writer)
        log.handler.start()
        log._logger.info("%d", "no number")
        log.say(1)
        log.handler.flush()
        assert os.read(reader, 65_536).count(b"\n") == 1
    assert "Logging error" in capsys.readouterr().err


def opened(descriptor: int) -> TextIO:
    return os.fdopen(os.dup(descriptor), "w", encoding="utf-8")


def test_text_is_written_when_there_is_room_and_lost_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.server.output._WRITE_TIMEOUT_S", 0.01)
    with pipe(is_blocking=True) as (reader, writer), opened(writer) as stream:
        assert write_text(stream, "ready\n")
        assert os.read(reader, 100) == b"ready\n"
    shown = io.StringIO()
    assert write_text(shown, "ready\n")
    assert shown.getvalue() == "ready\n"
    with pipe(is_blocking=True, is_full=True) as (_, writer), opened(writer) as stream:
        assert not write_text(stream, "ready\n")
    assert not write_text(None, "ready\n")


def test_only_our_writes_to_a_full_pipe_fail() -> None:
    with pipe(is_blocking=True, is_full=True) as (_, writer), opened(writer) as stream:
        make_nonblocking(stream)
        with pytest.raises(BlockingIOError):
            os.write(stream.fileno(), b"x")
        assert os.get_blocking(writer)


def test_mode_of_files_is_not_changed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        stream.write("first\n")
        stream.flush()
        make_nonblocking(stream)
        write_text(stream, "second\n")
    assert (tmp_path / "log").read_text(encoding="utf-8") == "first\nsecond\n"
    make_nonblocking(None)


_CALLS = 20


@contextmanager
def server(bundle: Bundle, redirections: str, stream: int) -> Iterator[tuple[int, int, str]]:
    """A server that logs every call: its process, gRPC port and address of metrics; SIGTERM must end it with code 0."""
    command = server_command(bundle.folder)
    shell = ["sh", "-c", f'exec "$@" {redirections}', "sh", *command, "--log-level", "debug", "--sessions", "1"]
    with subprocess.Popen(shell, cwd=ROOT, stdout=stream, stderr=stream) as process:
        try:
            yield process.pid, *ports(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONG) == 0
        finally:
            process.kill()


def ports(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The port for calls and the address of the metrics of a server that cannot tell."""
    watched = psutil.Process(process.pid)

    def listening() -> list[int]:
        assert process.poll() is None, "the server ended"
        return [entry.laddr.port for entry in watched.net_connections("tcp") if entry.status == psutil.CONN_LISTEN]

    until(lambda: len(listening()) == 2)
    until(lambda: any(map(is_ready, listening())))
    first, second = listening()
    return (second, f"127.0.0.1:{first}") if is_ready(first) else (first, f"127.0.0.1:{second}")


def is_ready(port: int) -> bool:
    """Whether it is the port for monitoring, and says that calls are answered."""
    with (
        suppress(OSError, HTTPException),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=LONG) as page,
    ):
        return bool(page.status == 200)
    return False


def is_nonblocking(pid: int, descriptor: int) -> bool:
    """Whether a write of the process fails at once where it would have to wait (proc(5), fdinfo)."""
    (flags,) = re.findall(r"flags:\s+(\d+)", Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text(encoding="ascii"))
    return bool(int(flags, 8) & os.O_NONBLOCK)


def lost_lines(metrics: str) -> float:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=LONG) as page:
        lines = page.read().decode().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("swiftrec_log_lines_dropped_total ")]
    return float(value)


def answered(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = EncoderServiceStub(channel)
        replies = [
            stub.Encode(pb.EncodeRequest(texts=[f"{n}"]), timeout=LONG, wait_for_ready=True) for n in range(_CALLS)
        ]
    return sum(reply.rows for reply in replies)


def test_server_serves_with_stdout_and_stderr_on_full_pipes_that_are_never_read(bundle: Bundle) -> None:
    with pipe(is_blocking=True, is_full=True) as (_, full), server(bundle, "", full) as (pid, port, _metrics):
        assert answered(port) == _CALLS
        assert all(is_nonblocking(pid, descriptor) for descriptor in (1, 2))  # for libraries that write to them
        assert os.get_blocking(full)  # for the other programs that write to it


@pytest.mark.parametrize("redirections", [">&- 2>/dev/full", ">/dev/full 2>&-"])
def test_server_serves_and_counts_lost_lines_with_closed_and_full_outputs(bundle: Bundle, redirections: str) -> None:
    with server(bundle, redirections, subprocess.DEVNULL) as (_pid, port, metrics):
        assert answered(port) == _CALLS
        assert lost_lines(metrics) >= _CALLS
