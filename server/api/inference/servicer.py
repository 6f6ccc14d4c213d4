"""`inference.GRPCInferenceService`: all 20 RPCs, for tritonclient and perf_analyzer as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version as installed

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from server.api.calls import Calls
from server.api.inference.infer import Inference
from server.api.inference.models import configuration, find_model, metadata, read_version
from server.api.inference.repository import ModelRepository
from server.api.inference.settings import log_settings, trace_setting
from server.api.inference.statistics import model_statistics
from server.api.status import sentence
from server.api.streams import in_order
from server.errors import InvalidInput, SwiftrecError, Unsupported
from server.models.registry import TURN_S

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


def stream_error(response: pb.ModelStreamInferResponse, error: SwiftrecError) -> pb.ModelStreamInferResponse:
    """The response in the place of another one, which says why that cannot be given."""
    return _error_response(response.infer_response, error)


def _error_response(
    message: pb.ModelInferRequest | pb.ModelInferResponse, error: SwiftrecError
) -> pb.ModelStreamInferResponse:
    response = pb.ModelInferResponse(model_name=message.model_name, id=message.id)
    return pb.ModelStreamInferResponse(error_message=sentence(error), infer_response=response)


class InferenceServicer(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # tritonclient ships no types
    """The protocol's methods, in its order.

    Args:
        inference: answers ModelInfer.
        repository: the models.
        calls: makes callers.
        is_ready: whether the server takes work.
    """

    def __init__(
        self, inference: Inference, repository: ModelRepository, calls: Calls, is_ready: Callable[[], bool]
    ) -> None:
        self._inference, self._repository, self._calls, self._is_ready = inference, repository, calls, is_ready

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """It answers, so it lives."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """As the health service says."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Whether that version serves."""
        return pb.ModelReadyResponse(ready=self._repository.is_model_ready(request.name, read_version(request.version)))

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
        with self._repository.use(request.name, read_version(request.version)) as engine:
            versions = [one.bundle.manifest.version for one in self._repository.engines(request.name)]
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
                return _error_response(request, error)

        return in_order(request_iterator, answer)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """The model as a Triton configuration."""
        spec, _ = find_model(request.name)
        with self._repository.use(request.name, read_version(request.version)) as engine:
            max_batch = self._repository.max_batch(request.name)
            return pb.ModelConfigResponse(config=configuration(spec, request.name, engine, max_batch))

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Counts of one model in one version or in all of them, or of every model of every bundle."""
        if request.name:
            spec, _ = find_model(request.name)
            engines = self._repository.engines(request.name, read_version(request.version))
            counts = [model_statistics(request.name, spec, engine) for engine in engines]
        else:
            counts = [model_statistics(*model) for model in self._repository.all_models()]
        return pb.ModelStatisticsResponse(model_stats=counts)

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """Every name that a model can be asked for by, with why one does not serve."""
        self._check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(models=self._repository.index(only_ready=request.ready))

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load the bundle of a model: its newest version, or the one that the parameter "version" names."""
        self._check_repository(request.repository_name)
        self._repository.load(request.model_name, request.parameters, self._turn_s(context))
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Stop serving the bundle of a model, all its versions."""
        self._check_repository(request.repository_name)
        self._repository.unload(request.model_name, self._turn_s(context))
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

    def _turn_s(self, context: grpc.ServicerContext) -> float:
        """How long this call may wait for another change of the bundles."""
        return min(TURN_S, self._calls.of(context).call().remaining_s())

    def _check_repository(self, name: str) -> None:
        if name:
            raise InvalidInput("repository_name", f"repository '{name[:64]}' is not known; leave the name empty")
