"""Before the load: starts the servers, checks that they serve the bundle, measures start-up and the client's limit."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import grpc

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.connection import PLAIN, Access, check_bundle, no_answer, wait_ready
from swiftrec.benchmarks.environment import check_device, pinned
from swiftrec.benchmarks.floor import FloorMeter
from swiftrec.benchmarks.server_process import SERVER_CORE, ServerProcess, extra_flags, load_cores, running_server
from swiftrec.benchmarks.suite.context import BenchContext
from swiftrec.benchmarks.suite.result import Client, Repeated
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.workload import WORKLOADS
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest, RecommendResponse
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

UNKNOWN = "unknown"  # the encoder of a server that was running already
_FIRST_REQUEST_S = 30.0


def start(bench: BenchContext, stack: ExitStack) -> None:
    """Start the server (several times, the last one stays) and the bare server; load the floor's models.

    Raises:
        RuntimeError, SwiftrecError: something is missing, or another bundle is served.
    """
    settings = bench.settings
    check_device(settings.device)
    bundle = load_bundle(settings.bundle)
    default = bundle.variant(settings.device, None)
    is_known = settings.variant or not settings.target
    bench.result.bundle = {
        **BundleId.of(bundle.manifest).fields(),
        "device": settings.device,
        "default": default,
        "variant": bundle.variant(settings.device, settings.variant) if is_known else UNKNOWN,
    }
    if settings.target:
        bench.server = bench.cached = ServerProcess(settings.target, None, settings.metrics)
        first_response(settings.target, bundle, settings.access)
        bench.result.notes += _target_notes(settings.variant, default)
    else:
        _start_server(bench, stack, bundle)
    echo = ["-m", "swiftrec.benchmarks", "echo", "--bundle", str(settings.bundle)]
    bench.echo = stack.enter_context(running_server(echo))
    with pinned(SERVER_CORE):
        bench.floor = FloorMeter(settings.bundle, settings.variant, settings.device)


def _target_notes(variant: str | None, default: str) -> list[str]:
    """What a reader has to know of a server that was running already."""
    notes = ["a server that was running already: no start-up time, no CPU per request, no work ratio"]
    if variant is None:
        notes.append(f"a server does not report its encoder: give --variant; the floor is that of {default}")
    return notes


def _start_server(bench: BenchContext, stack: ExitStack, bundle: Bundle) -> None:
    """The server without its cache; and one with it if a workload repeats its texts."""
    seconds = []
    for number in range(bench.size.starts):
        with ExitStack() as inner:
            began = time.monotonic()
            bench.server = inner.enter_context(running_server(_server_command(bench.settings, has_cache=False)))
            first_response(bench.server.address, bundle)
            seconds.append(time.monotonic() - began)
            if number + 1 == bench.size.starts:
                stack.push(inner.pop_all())
    bench.result.startup_s = Repeated(values=seconds)
    repeating = [name for name in bench.settings.names if WORKLOADS[name].repeats]
    if repeating:
        bench.cached = stack.enter_context(running_server(_server_command(bench.settings, has_cache=True)))
        bench.result.notes.append(f"the server's cache is on for {', '.join(repeating)} and off for the others")
    else:
        bench.result.notes.append("the server's cache is off")


def _server_command(settings: BenchSettings, *, has_cache: bool) -> list[str]:
    flags = ["--bundle", str(settings.bundle), "--device", settings.device, "--port", "0", "--metrics-port", "0"]
    more = extra_flags(settings.variant, settings.server_flags, has_cache=has_cache)
    return ["-m", "swiftrec.server", *flags, "--log-level", "error", *more]


def first_response(target: str, bundle: Bundle, access: Access = PLAIN) -> RecommendResponse:
    """Wait until the server recommends items from this bundle.

    Raises:
        RuntimeError: nothing responds at `target`, not with this access, or another bundle is served.
    """
    request = RecommendRequest(query="a first question")
    with access.channel(target) as channel:
        wait_ready(channel, target, access)
        try:
            response = RecommenderServiceStub(channel).Recommend(
                request, timeout=_FIRST_REQUEST_S, metadata=access.metadata()
            )
        except grpc.RpcError as error:
            raise no_answer(target, error, access) from None
    check_bundle(target, response, bundle.manifest)
    if not response.items:
        raise RuntimeError(
            f"the server at {target} responded without items: look at its log, or export the bundle again"
        )
    return response


def client_limit(bench: BenchContext) -> Client:
    """How many requests the load generator can send, measured against a server that does nothing."""
    figures = bench.saturate(bench.echo, bench.settings.main, bench.settings.seed, is_echo=True)
    Path(figures["rows"]).unlink()
    per_core = 1e6 / figures["client_us"]
    client = Client(
        ceiling_per_s=per_core * min(bench.settings.processes, len(load_cores())),
        reached_per_s=figures["throughput"],
        client_us=figures["client_us"],
        processes=bench.settings.processes,
    )
    bench.result.client = client
    return client
