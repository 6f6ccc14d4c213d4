"""Before the load: what is measured is there and is the right one; start-up time; the client's own ceiling."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import grpc

from swiftrec.benchmarks.access import PLAIN, Access
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.first import check_bundle, no_answer, wait_ready
from swiftrec.benchmarks.floor import FloorMeter
from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.process import SERVER_CORE, Served, load_cores, more_flags, serving
from swiftrec.benchmarks.suite.bench import Bench
from swiftrec.benchmarks.suite.result import Client, Repeated
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.workload import KINDS
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.models.runtime import onnxruntime
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest, RecommendResponse
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

UNKNOWN = "unknown"  # the encoder of a server that ran already
_FIRST_S = 30.0


def check_device(device: str) -> None:
    """The device can be measured here.

    Raises:
        RuntimeError: it cannot.
    """
    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeError("DEVICE=cuda: there is no GPU that this onnxruntime can use; nothing was measured")


def start(bench: Bench, stack: ExitStack) -> None:
    """Start the server (as often as the plan says; the last one stays) and the bare server; open the floor's models.

    Raises:
        RuntimeError, SwiftrecError: something is not there, or not the right one.
    """
    settings = bench.settings
    check_device(settings.device)
    bundle = load_bundle(settings.bundle)
    facts = bundle.manifest
    default = bundle.variant(settings.device, None)
    is_known = settings.variant or not settings.target
    bench.result.bundle = {
        **BundleId.of(facts).fields(),
        "device": settings.device,
        "default": default,
        "variant": bundle.variant(settings.device, settings.variant) if is_known else UNKNOWN,
    }
    if settings.target:
        bench.server = bench.cached = Served(settings.target, None, settings.metrics)
        first_answer(settings.target, bundle, settings.access)
        bench.result.notes += _of_a_stranger(settings.variant, default)
    else:
        _start_ours(bench, stack, bundle)
    bench.echo = stack.enter_context(serving(["-m", "swiftrec.benchmarks", "echo", "--bundle", str(settings.bundle)]))
    with pinned(SERVER_CORE):
        bench.floor = FloorMeter(settings.bundle, settings.variant, settings.device)


def _of_a_stranger(variant: str | None, default: str) -> list[str]:
    """What a reader has to know of a server that we did not start."""
    notes = ["a server that ran already: no start-up time, no CPU per request, no work ratio"]
    if variant is None:
        notes.append(f"no server tells which encoder it runs: give --variant; the floor is that of {default}")
    return notes


def _start_ours(bench: Bench, stack: ExitStack, bundle: Bundle) -> None:
    """The server without its cache; and one with it, beside it, if a workload repeats itself."""
    seconds = []
    for number in range(bench.plan.starts):
        with ExitStack() as inner:
            began = time.monotonic()
            bench.server = inner.enter_context(serving(_server(bench.settings, has_cache=False)))
            first_answer(bench.server.address, bundle)
            seconds.append(time.monotonic() - began)
            if number + 1 == bench.plan.starts:
                stack.push(inner.pop_all())
    bench.result.startup_s = Repeated(values=seconds)
    repeating = [name for name in bench.settings.names if KINDS[name].repeats]
    if repeating:
        bench.cached = stack.enter_context(serving(_server(bench.settings, has_cache=True)))
        bench.result.notes.append(f"the server's cache is on for {', '.join(repeating)} and off for the others")
    else:
        bench.result.notes.append("the server's cache is off")


def _server(settings: BenchSettings, *, has_cache: bool) -> list[str]:
    flags = ["--bundle", str(settings.bundle), "--device", settings.device, "--port", "0", "--metrics-port", "0"]
    more = more_flags(settings.variant, settings.server_flags, has_cache=has_cache)
    return ["-m", "swiftrec.server", *flags, "--log-level", "error", *more]


def first_answer(target: str, bundle: Bundle, access: Access = PLAIN) -> RecommendResponse:
    """Ask until there is a good answer from this bundle.

    Raises:
        RuntimeError: nothing answers at `target`, not with this access, or another bundle does.
    """
    request = RecommendRequest(query="a first question")
    with access.channel(target) as channel:
        wait_ready(channel, target, access)
        try:
            reply = RecommenderServiceStub(channel).Recommend(request, timeout=_FIRST_S, metadata=access.metadata())
        except grpc.RpcError as error:
            raise no_answer(target, error, access) from None
    check_bundle(target, reply, bundle.manifest)
    if not reply.items:
        raise RuntimeError(f"the server at {target} answered without items: look at its log, or export the bundle anew")
    return reply


def ceiling(bench: Bench) -> Client:
    """What the load generator can do: against a server that does nothing. Printed before anything is measured."""
    found = bench.saturate(bench.echo, bench.settings.main, bench.settings.seed, is_echo=True)
    Path(found["rows"]).unlink()
    per_core = 1e6 / found["client_us"]
    client = Client(
        ceiling_per_s=per_core * min(bench.settings.processes, len(load_cores())),
        reached_per_s=found["throughput"],
        client_us=found["client_us"],
        processes=bench.settings.processes,
    )
    bench.result.client = client
    return client
