"""SIGTERM: accepted calls are answered and the exit code is 0; a second one, or the end of the grace, cuts it short."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from tests.conftest import ROOT
from tests.server.process import Server, serving
from tests.until import LONG, until


@contextmanager
def slow_server(bundle: Bundle, held_ms: int, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A process whose models take `held_ms`, its address, and that of its metrics."""
    command = [
        sys.executable,
        "-m",
        "swiftrec.benchmarks",
        "null-server",
        "--bundle",
        str(bundle.folder),
        "--port",
        "0",
    ]
    command += ["--metrics-port", "0", "--held-ms", f"{held_ms}", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address, metrics = re.findall(r"127\.0\.0\.1:\d+", process.stdout.readline())
            yield process, address, metrics
        finally:
            process.kill()


def started(channel: grpc.Channel, metrics: str) -> grpc.Future:  # type: ignore[type-arg]
    """A call that the server has begun to answer: its own gauge says so."""
    request = pb.EncodeRequest(texts=["slow"])
    call = EncoderServiceStub(channel).Encode.future(request, timeout=LONG, wait_for_ready=True)

    def is_in() -> bool:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=LONG) as page:
            return b"swiftrec_calls_in_flight 1.0" in page.read()

    until(is_in)
    return call


def test_accepted_call_is_answered_after_sigterm_and_new_ones_are_refused(bundle: Bundle) -> None:
    with slow_server(bundle, 1_000) as (process, address, metrics), grpc.insecure_channel(address) as channel:
        call = started(channel, metrics)
        process.send_signal(signal.SIGTERM)
        assert call.result(LONG).rows == 1
        assert process.wait(LONG) == 0
        with pytest.raises(grpc.RpcError) as caught:
            EncoderServiceStub(channel).Encode(pb.EncodeRequest(texts=["late"]), timeout=1)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("signals", "flags"), [(2, ()), (1, ("--grace-ms", "500"))])
def test_second_sigterm_or_the_end_of_the_grace_cuts_it_short(
    bundle: Bundle, signals: int, flags: tuple[str, ...]
) -> None:
    with slow_server(bundle, 600_000, *flags) as (process, address, metrics), grpc.insecure_channel(address) as channel:
        call = started(channel, metrics)
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            assert until_refused(channel)  # the first signal is being obeyed
            process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0  # the model would take ten minutes
        assert refusal(call).startswith("the server stops and cannot wait for the answer")


def refusal(call: grpc.Future) -> str:  # type: ignore[type-arg]
    """The sentence with which the server refused a call."""
    with pytest.raises(grpc.RpcError) as caught:
        call.result(LONG)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "x-request-id" in dict(caught.value.trailing_metadata())
    return caught.value.details() or ""


def until_refused(channel: grpc.Channel) -> bool:
    """Until a stopping server takes no new call."""
    ends = time.monotonic() + LONG
    while time.monotonic() < ends:
        try:
            EncoderServiceStub(channel).Encode(pb.EncodeRequest(texts=[""]), timeout=1)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAVAILABLE:
                return True
    return False


def test_second_sigterm_ends_the_drain(bundle: Bundle) -> None:
    with (
        slow_server(bundle, 0, "--drain-ms", "3600000") as (process, address, _),
        grpc.insecure_channel(address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=LONG, wait_for_ready=True)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGTERM)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert EncoderServiceStub(channel).Encode(pb.EncodeRequest(texts=["late"]), timeout=LONG).rows == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0


@contextmanager
def loading(bundle: Bundle, server: Server) -> Iterator[tuple[psutil.Process, grpc.Future]]:  # type: ignore[type-arg]
    """A bundle that is being loaded: the process that tries it first, and the call that waits for it."""
    process, ends = psutil.Process(server.pid), time.monotonic() + LONG
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.RepositoryModelLoad.future(
            service_pb2.RepositoryModelLoadRequest(model_name=bundle.manifest.name), timeout=600
        )
        # Until the child runs its own program it is a vfork: who stops it stops the server with it.
        while not (found := [child for child in process.children() if "probe" in child.cmdline()]):
            assert time.monotonic() < ends
        yield found[0], call


def test_bundle_that_is_being_loaded_does_not_hold_the_process_beyond_the_grace(bundle: Bundle) -> None:
    with (
        serving(bundle.folder, "--grace-ms", "500") as server,
        loading(bundle, server) as (child, call),
    ):
        child.suspend()  # for as long as it takes
        try:
            process = psutil.Process(server.pid)
            process.terminate()
            process.wait(LONG)
            assert refusal(call).startswith("the server stops and cannot wait for the answer")
        finally:
            child.kill()


def test_process_that_tries_a_bundle_ends_with_the_server(bundle: Bundle) -> None:
    with serving(bundle.folder, "--grace-ms", "0") as server, loading(bundle, server) as (child, _):
        psutil.Process(server.pid).terminate()
        child.wait(LONG)  # nobody sent it a signal


def test_sigterm_during_the_first_load_ends_the_process_with_code_0(bundle: Bundle) -> None:
    command = [
        sys.executable,
        "-m",
        "swiftrec.server",
        "--bundle",
        str(bundle.folder),
        "--port",
        "0",
        "--metrics-port",
        "0",
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        until(lambda: catches_sigterm(process.pid))
        process.terminate()
        assert process.wait(LONG) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""  # it never was ready


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler for it (proc(5), SigCgt)."""
    found = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found
    return bool(int(found[1], 16) >> (signal.SIGTERM - 1) & 1)
