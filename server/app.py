"""The composition root: starts in data-flow order, stops in reverse."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from server.addresses import join_address, listen_problem
from server.api.calls import Calls
from server.api.convert import InputLimits, forget_items
from server.api.deadlines import Deadlines
from server.api.desk import Desk
from server.api.doors import Doors
from server.api.edge import Edge
from server.api.inference.infer import Inference
from server.api.inference.repository import ModelRepository
from server.api.inference.servicer import InferenceServicer
from server.api.inference.servicer import stream_error as infer_stream_error
from server.api.journal import Journal
from server.api.methods import Methods
from server.api.outcomes import Outcomes
from server.api.security import Guard, Tokens, connection_limits, server_credentials
from server.api.services import EncoderServicer, RecommenderServicer, stream_error
from server.api.sizes import MessageLimits
from server.api.visit import can_desk
from server.config import ServerSettings
from server.errors import ConfigError, NotFound, NotServing
from server.models.bundle import Bundle
from server.models.registry import Registry
from server.models.session import Session, open_session
from server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from server.pipeline.engine import Engine
from server.probe import probe
from server.readiness import Readiness
from server.telemetry.collector import EngineCollector
from server.telemetry.http import MonitoringServer
from server.telemetry.metrics import Metrics
from server.telemetry.traces import Traces
from server.telemetry.watch import BundleWatch
from server.tuning.tuned import engine_options

_log = logging.getLogger(__name__)
_SPARE_THREADS = 8  # they say no while every other thread waits for an answer
_LEAST_S = 1.0  # for a model that runs when the grace is used up
_BACKLOG = 1_024  # calls that may wait for a thread
# Objects until the collector looks. At Python's 700 it went over calls under way all the time, for 5 % of the CPU; what
# is answered leaves it nothing.
_COLLECT = (20_000, 20, 50)
_SERVICES = ("swiftrec.v1.RecommenderService", "swiftrec.v1.EncoderService", "inference.GRPCInferenceService")
ALL_SERVICES = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
_CONTRACTS = (recommender_pb2.DESCRIPTOR, encoder_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
# Request type of every method of the contracts; health's Watch is left to its own stream.
_REQUESTS: dict[str, type[Message]] = {
    f"/{service.full_name}/{method.name}": message_factory.GetMessageClass(method.input_type)
    for contract in _CONTRACTS
    for service in contract.services_by_name.values()
    for method in service.methods
    if method.full_name != "grpc.health.v1.Health.Watch"
}
_STREAM_ERRORS = {
    "/swiftrec.v1.RecommenderService/StreamRecommend": stream_error,
    "/inference.GRPCInferenceService/ModelStreamInfer": infer_stream_error,
}


class App:
    """One server. `start` returns when it is SERVING; `stop` when every accepted call is answered.

    Args:
        settings: all of it.
        open_session: opens the model at a path on a device.

    Raises:
        BundleError, ProviderError: on start, a bundle cannot be served.
        ConfigError: on construction, a file cannot be used or an extra is missing; on start, a port is taken.
    """

    def __init__(
        self, settings: ServerSettings, open_session: Callable[[Path, str, int], Session] = open_session
    ) -> None:
        self._settings, self._open_session = settings, open_session
        self.metrics = Metrics()
        self._traces = _open_traces(settings)
        self._credentials = server_credentials(settings)
        self._readiness = Readiness(_SERVICES, lambda: bool(self.registry.ready()))
        self._is_hurried = False
        self._stops, self._has_stopped = threading.Lock(), False
        self._collected = gc.get_threshold()
        self.registry: Registry[Engine] = Registry(
            self._open_engine,
            lambda folder: probe(folder, engine_options(settings)),
            changed=self._bundles_changed,
            repository=settings.repository,
        )
        self.metrics.registry.register(
            EngineCollector(lambda: [one for engine in self.registry.ready() for one in engine.snapshots()])
        )
        self.doors = Doors(settings.max_calls, self._drain_s)
        self._max_streams = max(1, settings.max_calls // 4)  # each holds a thread
        self._threads = ThreadPoolExecutor(
            settings.max_calls + self._max_streams + _SPARE_THREADS, thread_name_prefix="call"
        )
        self._deadlines = Deadlines(on_death=self._readiness.fail)
        self._outcomes = Outcomes(self.metrics, Journal(self._traces), _REQUESTS)
        notes = self._traces.notes if self._traces else None
        finishers = len(os.sched_getaffinity(0))
        self._desk = (
            Desk(self._threads, finishers, self._deadlines, notes, self._readiness.fail) if can_desk() else None
        )
        self.methods = self._all_methods()
        self._server = self._grpc_server()
        self.port = 0
        self.metrics_port = 0

    def start(self) -> None:
        """Take the ports, load and warm the bundles, then say SERVING."""
        self._readiness.publish()
        self.port = self._bind(self._settings.host, self._settings.port)
        self._start_monitoring(self._settings.metrics_host, self._settings.metrics_port)
        if self._traces:
            self._traces.start()
        self._deadlines.start()
        if self._desk:
            self._desk.start()
        self._server.start()
        for path in self._settings.bundle:
            self.registry.add(path)
        self._readiness.has_started = True
        _log.info("serving", extra={"fields": {"port": self.port}})

    @property
    def has_started(self) -> bool:
        """Whether `start` has returned."""
        return self._readiness.has_started

    def stop(self) -> None:
        """NOT_SERVING first, then accepted calls within the grace, then the engines; once, whoever asks again waits."""
        with self._stops:
            if not self._has_stopped:
                self._has_stopped = True
                self._stop()

    def _stop(self) -> None:
        _log.info("stopping")
        grace_ends = time.monotonic() + self._settings.grace_ms / 1e3
        self._readiness.stop()
        self._server.stop(self._settings.grace_ms / 1e3).wait()
        self.registry.close(0.0 if self._is_hurried else max(_LEAST_S, grace_ends - time.monotonic()))
        if self._desk:
            self._desk.stop()
        self._deadlines.stop()
        self._monitoring.stop()
        if self._traces:
            self._traces.stop(max(0.0, grace_ends - time.monotonic()))
        gc.unfreeze()
        gc.set_threshold(*self._collected)
        _log.info("stopped")

    def hurry(self) -> None:
        """End the grace now: calls that are not answered yet are cancelled."""
        self._is_hurried = True
        self._server.stop(0)
        if self._traces:
            self._traces.hurry()

    def _open_engine(self, bundle: Bundle) -> Engine:
        facts = bundle.manifest
        watch = BundleWatch(self.metrics, facts.name, facts.version, self._traces.notes if self._traces else None)
        engine = Engine(
            bundle,
            engine_options(self._settings, bundle),
            watch=watch,
            on_death=self._readiness.fail,
            open_session=self._open_session,
        )
        engine.start()
        return engine

    def _grpc_server(self) -> grpc.Server:
        settings = self._settings
        guards: list[Any] = []
        if settings.token_file:
            few = max(1, settings.max_calls // 8)
            guards.append(Guard(Tokens(settings.token_file), ALL_SERVICES, self._outcomes, few, self._deadlines))
        server = grpc.server(
            self._threads,
            interceptors=guards,
            maximum_concurrent_rpcs=settings.max_calls + self._max_streams + _BACKLOG,
            options=[
                ("grpc.so_reuseport", 0),  # a second server on this port must fail to start
                *connection_limits(settings),
            ],
        )
        self.methods.install(server)
        return server

    def _all_methods(self) -> Methods:
        settings = self._settings
        streams = Doors(self._max_streams, self._drain_s)
        sizes = MessageLimits(settings.max_message_bytes, settings.max_response_bytes)
        edge = Edge(
            *(_REQUESTS, self._outcomes, self.doors, streams, self._deadlines, self._desk),
            sizes=sizes,
            stream_errors=_STREAM_ERRORS,
        )
        methods = Methods(edge.wrap)
        limits = InputLimits(settings.max_text_chars, settings.max_history, settings.max_entries)
        calls = Calls(settings.default_timeout_ms / 1e3)
        recommender = RecommenderServicer(self.registry, limits, sizes, calls, self.metrics)
        recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(recommender, methods.as_server())
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(
            EncoderServicer(self.registry, limits, sizes, calls), methods.as_server()
        )
        repository = ModelRepository(self.registry, self._readiness.is_ready, settings.max_entries)
        inference = InferenceServicer(
            Inference(repository, limits, sizes, self.metrics), repository, calls, self._readiness.is_ready
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, methods.as_server())
        health_pb2_grpc.add_HealthServicer_to_server(self._readiness.servicer, methods.as_server())
        if settings.has_reflection:
            reflection.enable_server_reflection(ALL_SERVICES, methods.as_server())
        return methods

    def _drain_s(self) -> float:
        try:
            with self.registry.use() as engine:
                return engine.encode.load().wait_s
        except (NotFound, NotServing):
            return 0.0

    def _bind(self, host: str, port: int) -> int:
        address, problem = join_address(host, port), listen_problem(host, port)
        try:
            if not problem and self._credentials:
                return self._server.add_secure_port(address, self._credentials)
            if not problem:
                return self._server.add_insecure_port(address)
        except RuntimeError:  # the port was taken meanwhile, or a name has another address that cannot be used
            problem = "gRPC cannot use the port: give another"
        raise ConfigError(f"cannot listen on {address} (--host, --port): {problem}")

    def _start_monitoring(self, host: str, port: int) -> None:
        self.metrics.in_flight.set_function(lambda: self.doors.inside)
        try:
            self._monitoring = MonitoringServer(
                host, port, self.metrics.registry, self._readiness.fault, self._readiness.obstacle
            )
        except OSError as error:
            address, problem = join_address(host, port), listen_problem(host, port) or error.strerror
            raise ConfigError(f"cannot listen on {address} (--metrics-host, --metrics-port): {problem}") from None
        self._monitoring.start()
        self.metrics_port = self._monitoring.port

    def _bundles_changed(self) -> None:
        """Say so, and take what lives as long as a bundle from the garbage collector: a full run took 40 ms."""
        self._readiness.publish()
        forget_items()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECT)


def _open_traces(settings: ServerSettings) -> Traces | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from server.telemetry.otlp import open_traces
    except ImportError:
        raise ConfigError(
            "--otlp-endpoint needs the extra otel: python -m pip install -c constraints.txt -e '.[otel]'"
        ) from None
    return open_traces(settings.otlp_endpoint, settings.trace_ratio, installed("swiftrec"))
