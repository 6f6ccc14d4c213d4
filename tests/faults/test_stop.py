"""SIGTERM: accepted calls are answered and the exit code is 0; a second one, or the end of the grace, cuts it short."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import pytest

from benchmarks.process import Served
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import encoder_pb2 as pb
from server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from tests.conftest import ROOT

_LONG = 30.0


@contextmanager
def slow_server(bundle: Bundle, held_ms: int, *flags: str) -> Iterator[tuple[subprocess.Popen[str], Served]]:
    command = [sys.executable, "-m", "benchmarks", "stub", "--bundle", str(bundle.folder), "--port", "0"]
    command += ["--metrics-port", "0", "--held-ms", f"{held_ms}", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, Served(process.stdout.readline().split(",")[0].rpartition(" ")[2], process.pid)
        finally:
            process.kill()


def started(channel: grpc.Channel) -> grpc.Future:  # type: ignore[type-arg]
    """A call that the server has begun to answer."""
    stub = EncoderServiceStub(channel)
    stub.Encode(pb.EncodeRequest(texts=["the connection stands"]), timeout=_LONG)
    call = stub.Encode.future(pb.EncodeRequest(texts=["slow"]), timeout=_LONG)
    time.sleep(0.1)  # the call is on its way; an early SIGTERM would refuse it, which the assertion would show
    return call


def test_accepted_call_is_answered_after_sigterm_and_new_ones_are_refused(bundle: Bundle) -> None:
    with slow_server(bundle, 1_000) as (process, served), grpc.insecure_channel(served.address) as channel:
        call = started(channel)
        process.send_signal(signal.SIGTERM)
        assert call.result(_LONG).rows == 1
        assert process.wait(_LONG) == 0
        with pytest.raises(grpc.RpcError) as caught:
            EncoderServiceStub(channel).Encode(pb.EncodeRequest(texts=["late"]), timeout=1)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("signals", "flags"), [(2, ()), (1, ("--grace-ms", "500"))])
def test_second_sigterm_or_the_end_of_the_grace_cuts_it_short(
    bundle: Bundle, signals: int, flags: tuple[str, ...]
) -> None:
    with slow_server(bundle, 6_000, *flags) as (process, served), grpc.insecure_channel(served.address) as channel:
        call = EncoderServiceStub(channel).Encode.future(
            pb.EncodeRequest(texts=["slow"]), timeout=_LONG, wait_for_ready=True
        )
        time.sleep(0.5)
        before = time.monotonic()
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert process.wait(_LONG) == 0
        assert time.monotonic() - before < 5
        with pytest.raises(grpc.RpcError):
            call.result(_LONG)
