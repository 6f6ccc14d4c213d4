"""A server whose stdout and stderr are full, closed or on a full disk serves, counts the lines it lost, and ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

import grpc
import psutil
import pytest

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from tests.conftest import ROOT
from tests.server.support.process import server_command
from tests.server.test_logs import pipe
from tests.until import LONG, until

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
