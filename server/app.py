"""The composition root: creates and starts all components in data-flow order, and stops them in reverse."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from swiftrec.server.addresses import join_address, listen_problem
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import BundleError, ConfigError, SwiftrecError
from swiftrec.server.front.endpoint import Endpoint, Server, bind, open_server
from swiftrec.server.front.front import Front
from swiftrec.server.front.limits import Arrivals, Limiters, OpenCalls, UnsentResponses
from swiftrec.server.front.methods import MethodTable
from swiftrec.server.front.middleware import MethodKinds, Middleware
from swiftrec.server.front.outcomes import AccessLog, Outcomes
from swiftrec.server.front.security import TokenAuthInterceptor, Tokens, connection_limits, server_credentials
from swiftrec.server.front.waits import Exchanges, Timers
from swiftrec.server.messages import DEFAULT_BYTES, MessageLimits
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.registry import Registry
from swiftrec.server.models.session import Session, open_session
from swiftrec.server.pipeline.engine import start_threads
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.probe import probe
from swiftrec.server.readiness import Readiness
from swiftrec.server.services import ALL_SERVICES, CHANGES, PROBES, REQUESTS, SERVICES, register_services
from swiftrec.server.telemetry.http import MonitoringServer
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics
from swiftrec.server.telemetry.traces import Traces
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.tuning.tuned import engine_options, queue_limits
from swiftrec.server.worker.loop import WorkerThread
from swiftrec.server.worker.methods import Services, recommender_methods
from swiftrec.server.worker.open_inference.infer import inference_methods
from swiftrec.server.worker.open_inference.repository import ModelRepository
from swiftrec.server.worker.open_inference.servicer import InferenceServicer
from swiftrec.server.worker.respond import clear_item_cache
from swiftrec.server.worker.validate import InputLimits
from swiftrec.server.worker.worker import Worker

_log = logging.getLogger(__name__)
_SPARE_THREADS = 8  # for calls that have released their slot and are about to end
_MIN_STOP_S = 1.0  # for a model that runs when the grace has ended
_MAX_ARRIVING_CALLS = 1_024  # calls whose request has not arrived
_MAX_UNSENT_RESPONSES = 64  # of maximum size, that clients have not read
# With Python's default of 700 objects, the collector rescans calls in flight, which takes 5 % of the CPU. Finished
# calls leave no cycles.
_GC_THRESHOLDS = (20_000, 20, 50)


class App:
    """One server. `start` returns when it is SERVING, `stop` when all accepted calls have ended.

    Args:
        settings: of the server.
        open_session: opens the model at a path on a device.

    Raises:
        BundleError, ProviderError: a bundle cannot be loaded (on start).
        ConfigError: a file cannot be used or an extra is missing (on construction); a port is in use (on start).
    """

    def __init__(
        self, settings: ServerSettings, open_session: Callable[[Path, str, int], Session] = open_session
    ) -> None:
        self._settings, self._open_session = settings, open_session
        self.metrics = Metrics()
        self._traces = _open_traces(settings)
        self._credentials = server_credentials(settings)
        self._sizes = MessageLimits(settings.max_message_bytes, settings.max_response_bytes)
        self._readiness = Readiness(SERVICES, lambda: bool(self.registry.ready()))
        self._is_cancelling = threading.Event()
        self._stops, self._has_stopped = threading.Lock(), False
        self._collected = gc.get_threshold()
        self.registry: Registry[Recommender] = Registry(
            self._open_recommender,
            lambda folder: probe(folder, engine_options(settings), settings.probe_timeout_s),
            changed=self._bundles_changed,
            repository=settings.repository,
        )
        self.metrics.bundles = lambda: [engine.recorder for engine in self.registry.ready()]
        self.repository = ModelRepository(self.registry, self._readiness.is_ready, settings.max_entries)
        self.worker = self._worker()
        self.link = WorkerThread(self.worker, self._readiness.fail, settings.hang_timeout_ms / 1e3)
        self.limiters = Limiters.of(settings.max_calls, lambda: self.link.load.wait_s)
        self._threads = ThreadPoolExecutor(self._thread_count(), thread_name_prefix="call")
        self._reader_count = self.limiters.streams.limit + _SPARE_THREADS
        self._readers = ThreadPoolExecutor(self._reader_count, thread_name_prefix="read")
        self._arrivals, self._open_calls = Arrivals(_MAX_ARRIVING_CALLS), OpenCalls()
        self._timers = Timers(on_death=self._readiness.fail)
        self._outcomes = Outcomes(self.metrics, AccessLog(self._traces))
        self._middleware = Middleware(
            self._front(), REQUESTS, MethodKinds(frozenset(self._worker_methods), PROBES, CHANGES)
        )
        self.methods = self._all_methods()
        self._server = self._grpc_server()
        self._endpoint = Endpoint(self._server, self._arrivals, self._open_calls, self._readiness.fail)
        self.port = 0
        self.metrics_port = 0

    def start(self) -> None:
        """Bind the ports, load and warm up the bundles, then report SERVING."""
        self._readiness.publish()
        self.port = bind(self._server, self._settings.host, self._settings.port, self._credentials)
        self._start_monitoring(self._settings.metrics_host, self._settings.metrics_port)
        if self._traces:
            self._traces.start()
        start_threads(self._threads, self._thread_count())
        start_threads(self._readers, self._reader_count)
        self._timers.start()
        self.link.start()
        self._endpoint.start()
        for path in self._settings.bundle:
            self.registry.add(path)
        self._readiness.has_started = True
        _log.info("serving", extra={"fields": {"port": self.port}})

    @property
    def has_started(self) -> bool:
        """Whether `start` has returned."""
        return self._readiness.has_started

    @property
    def fault(self) -> str:
        """Why the process should be restarted; empty if it need not be."""
        return self._readiness.fault()

    def on_fault(self, action: Callable[[], object]) -> None:
        """Call `action` when the process should be restarted."""
        self._readiness.on_fault = action

    def stop(self) -> None:
        """Report NOT_SERVING, drain unless there is a fault, end accepted calls within the grace, close the engines.

        A second call waits for the first.
        """
        with self._stops:
            if not self._has_stopped:
                self._has_stopped = True
                self._stop()

    def _stop(self) -> None:
        _log.info("stopping")
        self._readiness.stop()
        self._readiness.drain(self._settings.drain_ms / 1e3)
        grace_ends = time.monotonic() + self._settings.grace_ms / 1e3
        self._endpoint.stop(self._settings.grace_ms / 1e3)
        left_s = 0.0 if self._is_cancelling.is_set() else max(_MIN_STOP_S, grace_ends - time.monotonic())
        self.link.stop(left_s)
        self.registry.close(left_s)
        self._timers.stop()
        self._monitoring.stop()
        for threads in (self._threads, self._readers):
            threads.shutdown(wait=False)
        if self._traces:
            self._traces.stop(max(0.0, grace_ends - time.monotonic()))
        gc.unfreeze()
        gc.set_threshold(*self._collected)
        _log.info("stopped")

    def cancel_in_flight(self) -> None:
        """End the drain and the grace now: calls without a response are aborted."""
        self._is_cancelling.set()
        self._readiness.end_drain()
        self._endpoint.cancel_in_flight()
        if self._traces:
            self._traces.abort()

    def _open_recommender(self, bundle: Bundle) -> Recommender:
        manifest = bundle.manifest
        recorder = BundleRecorder(self.metrics, manifest.name, manifest.version)
        options = engine_options(self._settings, bundle)
        try:
            engine = Recommender(bundle, options, recorder=recorder, open_session=self._open_session)
            engine.start()
        except SwiftrecError:
            raise
        except Exception as error:  # noqa: BLE001 (the bundle is rejected, and the cause is logged)
            _log.exception("a bundle cannot be loaded")
            reason = f"{bundle.folder}: cannot be loaded ({type(error).__name__}: {error}): export it again"
            raise BundleError(reason) from None
        return engine

    def _worker(self) -> Worker:
        settings = self._settings
        services = Services(self.registry, input_limits(settings), self._sizes, self.metrics)
        methods = recommender_methods(services) | inference_methods(services, self.repository)
        self._worker_methods = methods
        return Worker(methods, queue_limits(settings), recorder=self.metrics)

    def _thread_count(self) -> int:
        """Size of the thread pool: streams, watches, control calls, loads and unloads hold a thread each."""
        limiters = self.limiters
        watches = [limiters.watches, limiters.open_watches] if self._settings.token_file else [limiters.watches]
        holding = [limiters.streams, *watches, limiters.control, limiters.changes]
        return sum(limiter.limit for limiter in holding) + _SPARE_THREADS

    def _grpc_server(self) -> Server:
        settings = self._settings
        interceptors: list[Any] = []
        if settings.token_file:
            tokens = Tokens(settings.token_file)
            interceptors.append(TokenAuthInterceptor(tokens, ALL_SERVICES, self._middleware))
        server = open_server(self._threads, connection_limits(settings), interceptors)
        self.methods.install(server)
        return server

    def _front(self) -> Front:
        settings = self._settings
        unsent_bytes = _MAX_UNSENT_RESPONSES * max(DEFAULT_BYTES, settings.max_response_bytes)
        return Front(
            exchanges=Exchanges(
                self.link,
                self._timers,
                self._write_error,
                settings.default_timeout_ms / 1e3,
                is_traced=self._traces is not None,
            ),
            timers=self._timers,
            outcomes=self._outcomes,
            limiters=self.limiters,
            open_calls=self._open_calls,
            arrivals=self._arrivals,
            probe_arrivals=Arrivals(_MAX_ARRIVING_CALLS),
            unsent=UnsentResponses(unsent_bytes, settings.send_timeout_ms / 1e3, self._timers),
            sizes=self._sizes,
            threads=self._threads,
            readers=self._readers,
            next_message_timeout_s=settings.max_stream_idle_s,
        )

    def _all_methods(self) -> MethodTable:
        methods = MethodTable(self._middleware.wrap)
        inference = InferenceServicer(self.repository, self._readiness.is_ready)
        register_services(
            methods.as_server(), inference, self._readiness.servicer, has_reflection=self._settings.has_reflection
        )
        return methods

    def _write_error(self, ticket: Ticket, error: SwiftrecError) -> Reply:
        return self._worker_methods[ticket.method](ticket, ticket.deadline).write_error(error)

    def _start_monitoring(self, host: str, port: int) -> None:
        self.metrics.in_flight.set_function(lambda: self.limiters.calls.in_use + self.limiters.streams.in_use)
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
        """Publish the state, and exempt the objects of bundles from garbage collection: a full run takes 40 ms."""
        self._readiness.publish()
        clear_item_cache()
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)


def input_limits(settings: ServerSettings) -> InputLimits:
    """The limits of a request in the settings."""
    return InputLimits(
        text_chars=settings.max_text_chars,
        history=settings.max_history,
        entries=settings.max_entries,
        items=settings.max_items,
        events=settings.max_events,
        filter_values=settings.max_filter_values,
    )


def _open_traces(settings: ServerSettings) -> Traces | None:
    if settings.otlp_endpoint is None:
        return None
    try:
        from swiftrec.server.telemetry.otlp import open_traces
    except ImportError:
        raise ConfigError(
            "--otlp-endpoint needs packages that are not installed: pip install 'swiftrec[otel]'"
        ) from None
    return open_traces(settings.otlp_endpoint, settings.trace_ratio, installed("swiftrec"))
