"""The recorder as it is run, between clients and a server: what fails of it fails no call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from swiftrec.benchmarks.recording import Recording
from swiftrec.benchmarks.server_process import ServerProcess, running_server
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.conftest import ROOT

_LIMITED = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
_RUN = "runpy.run_module('benchmarks', run_name='__main__')"


@pytest.fixture(scope="module")
def echo(bundle: Bundle) -> Iterator[ServerProcess]:
    with running_server(["-m", "swiftrec.benchmarks", "echo", "--bundle", str(bundle.folder)], core=None) as served:
        yield served


@contextmanager
def recording(target: str, bundle: Bundle, output: Path, *, most_bytes: int) -> Iterator[subprocess.Popen[str]]:
    """A recorder whose files may not grow beyond a size, as on a full disk."""
    flags = ["record", "--target", target, "--output", str(output), "--bundle", str(bundle.folder)]
    command = [sys.executable, "-B", "-c", _LIMITED.format(size=most_bytes) + _RUN, *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_full_disk_ends_the_recording_and_no_call(echo: ServerProcess, bundle: Bundle, tmp_path: Path) -> None:
    path, calls = tmp_path / "calls.jsonl", 20
    with recording(echo.address, bundle, path, most_bytes=600) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2].rstrip(",")
        with grpc.insecure_channel(address) as channel:
            service = RecommenderServiceStub(channel)
            responses = [service.Recommend(RecommendRequest(query=f"text {n}"), timeout=20) for n in range(calls)]
        assert all(reply.items for reply in responses)
        process.send_signal(signal.SIGTERM)
        output, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert said.splitlines() == [
        f"swiftrec bench record: the disk is full at {path} (File too large): free some space and run again; "
        "calls are forwarded, but no longer recorded"
    ]
    kept = len(Recording.load(path).calls)
    assert output == f"{kept} calls in {path}\n"
    assert 0 < kept < calls


def test_disk_that_takes_nothing_is_a_sentence(echo: ServerProcess, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    with recording(echo.address, bundle, path, most_bytes=0) as process:
        output, said = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, "")
    assert f"swiftrec bench record: the disk is full at {path} (File too large)" in said
    assert "Traceback" not in said


def test_without_a_server_an_older_recording_stays(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text("older\n")
    with recording("127.0.0.1:9", bundle, path, most_bytes=1_000) as process:
        output, said = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, "")
    assert "nothing responds at 127.0.0.1:9" in said
    assert path.read_text() == "older\n"
