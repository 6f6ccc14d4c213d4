"""A server in a separate process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    pid: int
    port: int
    metrics_port: int
    stub: RecommenderServiceStub


def server_command(bundle: Path, *flags: str, module: str = "swiftrec.server") -> list[str]:
    """The command that serves a bundle on free ports."""
    ports = ["--port", "0", "--metrics-port", "0"]
    return [sys.executable, "-m", *module.split(), "--bundle", str(bundle), *ports, *flags]


@contextmanager
def serving(bundle: Path, *flags: str, module: str = "swiftrec.server") -> Iterator[Server]:
    """Serve on free ports; at the end SIGTERM must end it with code 0."""
    command = server_command(bundle, *flags, module=module)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+), metrics on 127\.0\.0\.1:(\d+)", ready)
        assert match, ready
        port, metrics_port = int(match[1]), int(match[2])
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Server(process.pid, port, metrics_port, RecommenderServiceStub(channel))
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=30)
    assert code == 0
