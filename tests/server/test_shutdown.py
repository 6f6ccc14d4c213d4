"""SIGTERM, draining, and the health probes meanwhile."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.session import Session, open_session
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.encoder_pb2_grpc import EncoderServiceStub
from swiftrec.server.services import SERVICES
from tests.conftest import ROOT
from tests.server.support.gated import Bench, bench, code
from tests.server.support.process import Server, server_command, serving
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
def test_second_sigterm_or_the_end_of_the_grace_period_ends_running_calls(
    bundle: Bundle, signals: int, flags: tuple[str, ...]
) -> None:
    with slow_server(bundle, 600_000, *flags) as (process, address, metrics), grpc.insecure_channel(address) as channel:
        call = started(channel, metrics)
        process.send_signal(signal.SIGTERM)
        if signals == 2:
            assert until_refused(channel)  # the first signal is being obeyed
            process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0  # the model would take ten minutes
        assert refusal(call).startswith("the server is stopping and the grace period has ended")


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
        while not (actual := [child for child in process.children() if "probe" in child.cmdline()]):
            assert time.monotonic() < ends
        yield actual[0], call


def test_loading_bundle_does_not_delay_the_exit_beyond_the_grace_period(bundle: Bundle) -> None:
    with (
        serving(bundle.folder, "--grace-ms", "500") as server,
        loading(bundle, server) as (child, call),
    ):
        child.suspend()  # for as long as it takes
        try:
            process = psutil.Process(server.pid)
            process.terminate()
            process.wait(LONG)
            assert refusal(call).startswith("the server is stopping and the grace period has ended")
        finally:
            child.kill()


def test_probe_process_of_a_bundle_ends_with_the_server(bundle: Bundle) -> None:
    with serving(bundle.folder, "--grace-ms", "0") as server, loading(bundle, server) as (child, _):
        psutil.Process(server.pid).terminate()
        child.wait(LONG)  # it got no signal itself


def test_sigterm_during_the_first_load_ends_the_process_with_code_0(bundle: Bundle) -> None:
    command = server_command(bundle.folder)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        until(lambda: catches_sigterm(process.pid))
        process.terminate()
        assert process.wait(LONG) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b""  # it never was ready


def catches_sigterm(pid: int) -> bool:
    """Whether the process has a handler for it (proc(5), SigCgt)."""
    actual = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert actual
    return bool(int(actual[1], 16) >> (signal.SIGTERM - 1) & 1)


_LONG = 30.0


_GRACE_MS = 3_000  # open Watch streams last until its end


_NAMES = ("", *SERVICES)


_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def watch(served: Bench) -> list[Iterator[health_pb2.HealthCheckResponse]]:
    return [served.health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=_LONG) for name in _NAMES]


def test_each_service_is_not_serving_before_the_accepted_calls_are_answered(bundle: Bundle) -> None:
    with bench(bundle, grace_ms=_GRACE_MS) as served:
        held, watchers = served.hold(), watch(served)
        assert [next(watcher).status for watcher in watchers] == [_SERVING] * len(_NAMES)
        stopping = threading.Thread(target=served.app.stop)
        stopping.start()
        assert [next(watcher).status for watcher in watchers] == [_NOT_SERVING] * len(_NAMES)
        assert not held.done()
        served.encoder.open()
        assert held.result(_LONG).rows == 1
        stopping.join()


def test_each_service_is_not_serving_after_the_worker_died(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(bundle, grace_ms=_GRACE_MS) as served:
        watchers = watch(served)
        assert [next(watcher).status for watcher in watchers] == [_SERVING] * len(_NAMES)
        monkeypatch.setattr(served.app.worker, "step", lambda: 1 / 0)
        assert code(served.ask("text")) is grpc.StatusCode.UNAVAILABLE
        assert [next(watcher).status for watcher in watchers] == [_NOT_SERVING] * len(_NAMES)


def test_calls_are_answered_during_the_drain_until_they_are_cancelled(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.server.app.probe", lambda *_: None)
    with bench(bundle, grace_ms=_GRACE_MS, drain_ms=3_600_000) as served:
        watcher = served.health.Watch(health_pb2.HealthCheckRequest(), timeout=_LONG)
        assert next(watcher).status == _SERVING
        stopping = threading.Thread(target=served.app.stop)
        stopping.start()
        assert next(watcher).status == _NOT_SERVING
        assert served.ask("text").result(_LONG).rows == 1
        with grpc.insecure_channel(f"127.0.0.1:{served.app.port}", [("grpc.use_local_subchannel_pool", 1)]) as late:
            assert EncoderServiceStub(late).Encode(EncodeRequest(texts=["late"]), timeout=_LONG).rows == 1
        served.app.registry.load(bundle.manifest.name)
        assert not served.is_healthy()
        assert stopping.is_alive()
        served.app.cancel_in_flight()
        stopping.join(_LONG)
        assert not stopping.is_alive()


def test_both_protocols_share_one_queue_and_one_batch(bundle: Bundle) -> None:
    with bench(bundle) as served, grpc.insecure_channel(f"127.0.0.1:{served.app.port}") as channel:
        request = service_pb2.ModelInferRequest(model_name="encoder")
        tensor = request.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1))
        tensor.contents.bytes_contents.append(b"text 1")
        held, mine = served.hold(), served.ask("text 2")
        theirs = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(request, timeout=_LONG)
        served.until_sent(2)
        served.encoder.open()
        assert held.result(_LONG).rows == mine.result(_LONG).rows == 1
        assert theirs.result(_LONG).outputs[0].shape == [1, 128]
        assert served.encoder.sizes == [1, 2]


_OK = (200, "ok\n")


def probe(app: App, path: str) -> tuple[int, str]:
    """Status and text of `/healthz` or `/readyz`."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}{path}", timeout=LONG) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_loading_server_is_alive_and_not_ready(bundle: Bundle) -> None:
    seen: list[tuple[int, str]] = []

    def opened(path: Path, device: str, threads: int) -> Session:
        seen.extend((probe(app, "/healthz"), probe(app, "/readyz")))
        return open_session(path, device, threads)

    app = App(ServerSettings(bundle=[bundle.folder], port=0, metrics_port=0, _cli_parse_args=[]), opened)
    app.start()
    try:
        assert seen[:2] == [_OK, (503, "the server is starting: no bundle is loaded yet\n")]
        assert probe(app, "/readyz") == _OK
    finally:
        app.stop()


def test_server_without_a_bundle_is_alive_and_not_ready(bundle: Bundle) -> None:
    with bench(bundle) as served:
        assert probe(served.app, "/healthz") == probe(served.app, "/readyz") == _OK
        served.app.registry.unload(bundle.manifest.name)
        assert probe(served.app, "/healthz") == _OK
        assert probe(served.app, "/readyz") == (503, "no bundle is loaded\n")


def test_stopping_server_is_alive_and_not_ready(bundle: Bundle) -> None:
    with bench(bundle) as served:
        held = served.hold()
        stopping = threading.Thread(target=served.app.stop)
        stopping.start()
        until(lambda: probe(served.app, "/readyz") == (503, "the server is stopping\n"))
        assert probe(served.app, "/healthz") == _OK
        served.encoder.open()
        assert held.result(LONG).rows == 1
        stopping.join()


def test_server_is_not_alive_when_its_thread_has_died(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(bundle) as served:
        monkeypatch.setattr(served.app.worker, "step", lambda: 1 / 0)
        assert code(served.ask("text")) is grpc.StatusCode.UNAVAILABLE
        reply = (503, "the worker thread has died: restart the server\n")
        assert probe(served.app, "/healthz") == probe(served.app, "/readyz") == reply
