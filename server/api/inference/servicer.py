"""`inference.GRPCInferenceService`: all 20 RPCs, for tritonclient and perf_analyzer as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.metadata import version as installed

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from server.api.calls import Calls
from server.api.inference.infer import Inference
from server.api.inference.models import MODELS, configuration, find_model, metadata, read_version
from server.api.inference.settings import log_settings, trace_setting
from server.api.inference.statistics import model_statistics
from server.api.status import sentence
from server.api.streams import in_order
from server.errors import InvalidInput, NotFound, NotServing, SwiftrecError, Unsupported
from server.models.registry import TURN_S, Registry
from server.pipeline.engine import Engine

_EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "parameters",
    "statistics",
    "trace",
    "logging",
)
_NO_SHARED_MEMORY = "shared memory is not supported: send the contents in the request"


class InferenceServicer(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient ships no types
    """The protocol's methods, in its order.

    Args:
        inference: answers ModelInfer.
        registry: what serves.
        calls: makes callers.
        is_ready: whether the server takes work.
        max_batch: rows of one request.
    """

    def __init__(
        self,
        inference: Inference,
        registry: Registry[Engine],
        calls: Calls,
        is_ready: Callable[[], bool],
        max_batch: int,
    ) -> None:
        self._inference, self._registry, self._calls = inference, registry, calls
        self._is_ready, self._max_batch = is_ready, max_batch

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """It answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """As the health service says."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Whether that version serves."""
        try:
            with self._use(request.name, request.version):
                return pb.ModelReadyResponse(ready=self._is_ready())
        except (NotFound, NotServing):
            return pb.ModelReadyResponse(ready=False)

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Who this is."""
        return pb.ServerMetadataResponse(name="swiftrec", version=installed("swiftrec"), extensions=_EXTENSIONS)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """Tensors and versions of a model."""
        spec, _ = find_model(request.name)
        with self._use(request.name, request.version) as engine:
            name = engine.bundle.manifest.name
            versions = [entry.version for entry in self._registry.index() if entry.name == name and entry.is_ready]
            return metadata(spec, request.name, versions, engine)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        """Answer."""
        return await self._inference.infer(request, self._calls.of(context))

    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Answer each message, in order; an error concerns its own message only."""
        caller = self._calls.of(context)

        async def answer(request: pb.ModelInferRequest) -> pb.ModelStreamInferResponse:
            try:
                return pb.ModelStreamInferResponse(infer_response=await self._inference.infer(request, caller))
            except SwiftrecError as error:
                response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                return pb.ModelStreamInferResponse(error_message=sentence(error), infer_response=response)

        return in_order(request_iterator, answer)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """The model as a Triton configuration."""
        spec, _ = find_model(request.name)
        with self._use(request.name, request.version) as engine:
            return pb.ModelConfigResponse(config=configuration(spec, request.name, engine, self._max_batch))

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Counts of one model, or of every model of every bundle."""
        if request.name:
            spec, _ = find_model(request.name)
            with self._use(request.name, request.version) as engine:
                return pb.ModelStatisticsResponse(model_stats=[model_statistics(request.name, spec, engine)])
        engines = self._registry.ready()  # once: it may change meanwhile
        named = [
            (name if engine.bundle.manifest.name == self._registry.default else f"{engine.bundle.manifest.name}.{name}")
            for engine in engines
            for name in MODELS
        ]
        specs = [(spec, engine) for engine in engines for spec in MODELS.values()]
        return pb.ModelStatisticsResponse(
            model_stats=[model_statistics(name, *one) for name, one in zip(named, specs, strict=True)]
        )

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """The bundles, with why one does not serve."""
        self._check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(
            models=[
                pb.RepositoryIndexResponse.ModelIndex(
                    name=entry.name,
                    version=str(entry.version),
                    state="READY" if entry.is_ready else "UNAVAILABLE",
                    reason=entry.reason,
                )
                for entry in self._registry.index()
                if entry.is_ready or not request.ready
            ]
        )

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load a bundle: its newest version, or the one that the parameter "version" names."""
        self._check_repository(request.repository_name)
        for name in request.parameters:
            if name != "version":
                raise InvalidInput(name, f"load parameter '{name}' is not supported: a bundle is served as it is")
        value = request.parameters.get("version")
        text = "" if value is None else value.string_param or str(value.int64_param)
        self._registry.load(request.model_name, read_version(text), self._turn_s(context))
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Stop serving a bundle, all its versions."""
        self._check_repository(request.repository_name)
        self._registry.unload(request.model_name, self._turn_s(context))
        return pb.RepositoryModelUnloadResponse()

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryStatusResponse:
        """No region is registered."""
        return pb.SystemSharedMemoryStatusResponse()

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Refused."""
        raise Unsupported(_NO_SHARED_MEMORY)

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Nothing to do."""
        return pb.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No region is registered."""
        return pb.CudaSharedMemoryStatusResponse()

    def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Refused."""
        raise Unsupported(_NO_SHARED_MEMORY)

    def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Nothing to do."""
        return pb.CudaSharedMemoryUnregisterResponse()

    def TraceSetting(self, request: pb.TraceSettingRequest, context: grpc.ServicerContext) -> pb.TraceSettingResponse:
        """Tracing is off in the protocol's sense."""
        return trace_setting(request)

    def LogSettings(self, request: pb.LogSettingsRequest, context: grpc.ServicerContext) -> pb.LogSettingsResponse:
        """The log level."""
        return log_settings(request)

    def _use(self, model: str, version: str) -> AbstractContextManager[Engine]:
        _, bundle = find_model(model)
        return self._registry.use(bundle, read_version(version))

    def _turn_s(self, context: grpc.ServicerContext) -> float:
        """How long this call may wait for another change of the bundles."""
        return min(TURN_S, self._calls.of(context).call().remaining_s())

    def _check_repository(self, name: str) -> None:
        if name:
            raise InvalidInput("repository_name", f"repository '{name[:64]}' is not known; leave the name empty")
