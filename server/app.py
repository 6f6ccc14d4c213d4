"""The composition root: starts in data-flow order, stops in reverse."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from server.api.convert import InputLimits
from server.api.edge import Edge
from server.api.security import Guard, Tokens, connection_limits, server_credentials
from server.api.services import Calls, EncoderServicer, RecommenderServicer
from server.batching.policy import Limits
from server.config import ServerSettings
from server.errors import ConfigError
from server.models.bundle import load_bundle
from server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from server.pipeline.engine import Engine, EngineOptions
from server.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
_SERVICES = ("swiftrec.v1.RecommenderService", "swiftrec.v1.EncoderService")
ALL_SERVICES = (*_SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
_REQUESTS: dict[str, type[Message]] = {
    "/swiftrec.v1.RecommenderService/Recommend": recommender_pb2.RecommendRequest,
    "/swiftrec.v1.RecommenderService/BatchRecommend": recommender_pb2.BatchRecommendRequest,
    "/swiftrec.v1.EncoderService/Encode": encoder_pb2.EncodeRequest,
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest,
}


class App:
    """One server. `start` returns when it is SERVING; `stop` when every accepted call is answered.

    Raises:
        BundleError, ProviderError: on construction, the bundle cannot be served.
        ConfigError: on construction, a certificate or token file cannot be used; on start, a port is taken.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.metrics = Metrics()
        self._credentials = server_credentials(settings)
        tokens = Tokens(settings.token_file) if settings.token_file else None
        few = max(1, settings.max_calls // 8)
        self._guards = [Guard(tokens, ALL_SERVICES, self.metrics, few)] if tokens else []
        # By default it waits under a lock for the thread that may want the lock: watchers that leave freeze the server.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        bundle = load_bundle(settings.bundle)
        limits = Limits(settings.max_batch_tokens, settings.max_batch_jobs, settings.max_waiting_jobs)
        self.engine = Engine(
            bundle,
            EngineOptions(settings.device, settings.variant, settings.sessions, limits),
            observe=self.metrics.observe_batch,
            on_death=lambda: self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING),
        )
        self._server = self._grpc_server()
        self.port = 0
        self.metrics_port = 0

    def start(self) -> None:
        """Take the ports, warm up, then say SERVING."""
        host = self._settings.host
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.port = self._bind(host, self._settings.port)
        self._start_metrics(self._settings.metrics_host)
        self._server.start()
        self.engine.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        facts = self.engine.bundle.manifest
        _log.info("serving", extra={"fields": {"port": self.port, "bundle": facts.name, "version": facts.version}})

    def stop(self) -> None:
        """NOT_SERVING first, then accepted calls within the grace, then the engine."""
        _log.info("stopping")
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server.stop(self._settings.grace_ms / 1e3).wait()
        self.engine.stop()
        self._metrics_server.shutdown()
        self._metrics_server.server_close()
        _log.info("stopped")

    def _grpc_server(self) -> grpc.Server:
        settings = self._settings
        server = grpc.server(
            ThreadPoolExecutor(settings.max_calls, thread_name_prefix="call"),
            interceptors=[*self._guards, Edge(_REQUESTS, self.metrics)],
            maximum_concurrent_rpcs=settings.max_calls,
            options=[
                ("grpc.so_reuseport", 0),  # a second server on this port must fail to start
                *connection_limits(settings),
            ],
        )
        limits = InputLimits(settings.max_text_chars, settings.max_history, settings.max_entries)
        calls = Calls(settings.default_timeout_ms / 1e3)
        parts = (self.engine.recommender, self.engine.bundle, limits, calls)
        recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(RecommenderServicer(*parts), server)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(EncoderServicer(*parts), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.has_reflection:
            reflection.enable_server_reflection(ALL_SERVICES, server)
        return server

    def _bind(self, host: str, port: int) -> int:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._credentials:
                bound = self._server.add_secure_port(address, self._credentials)
            else:
                bound = self._server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if not bound:
            raise ConfigError(f"cannot listen on {address}: the port is in use or not ours; give another --port")
        return bound

    def _start_metrics(self, host: str) -> None:
        try:
            self._metrics_server, _ = start_http_server(self._settings.metrics_port, host, self.metrics.registry)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{self._settings.metrics_port} ({error.strerror}): give another --metrics-port"
            ) from None
        self.metrics_port = self._metrics_server.server_port

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *_SERVICES):
            self._health.set(name, status)
