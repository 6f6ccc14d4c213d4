"""`inference.GRPCInferenceService`: the 18 RPCs that run no model, as tritonclient and perf_analyzer expect them."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version as installed

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from swiftrec.server.errors import InvalidInput, Unsupported
from swiftrec.server.models.registry import CHANGE_TIMEOUT_S
from swiftrec.server.worker.open_inference.models import configuration, find_model, metadata, read_version
from swiftrec.server.worker.open_inference.repository import ModelRepository
from swiftrec.server.worker.open_inference.settings import log_settings, trace_setting
from swiftrec.server.worker.open_inference.statistics import model_statistics

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
    """The protocol's methods, in its order; ModelInfer and ModelStreamInfer run in the worker (`infer.py`).

    Args:
        repository: the models.
        is_ready: whether the server accepts calls.
    """

    def __init__(self, repository: ModelRepository, is_ready: Callable[[], bool]) -> None:
        self._repository, self._is_ready = repository, is_ready

    def ServerLive(self, request: pb.ServerLiveRequest, context: grpc.ServicerContext) -> pb.ServerLiveResponse:
        """Always true: the server responds."""
        return pb.ServerLiveResponse(live=True)

    def ServerReady(self, request: pb.ServerReadyRequest, context: grpc.ServicerContext) -> pb.ServerReadyResponse:
        """The same state as the health service."""
        return pb.ServerReadyResponse(ready=self._is_ready())

    def ModelReady(self, request: pb.ModelReadyRequest, context: grpc.ServicerContext) -> pb.ModelReadyResponse:
        """Whether the version is loaded and the server is ready."""
        return pb.ModelReadyResponse(ready=self._repository.is_model_ready(request.name, read_version(request.version)))

    def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        return pb.ServerMetadataResponse(name="swiftrec", version=installed("swiftrec"), extensions=_EXTENSIONS)

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        """The tensors and versions of a model."""
        spec, _ = find_model(request.name)
        with self._repository.lease(request.name, read_version(request.version)) as recommender:
            versions = [loaded.bundle.manifest.version for loaded in self._repository.recommenders(request.name)]
            return metadata(spec, request.name, versions, recommender)

    def ModelConfig(self, request: pb.ModelConfigRequest, context: grpc.ServicerContext) -> pb.ModelConfigResponse:
        """The Triton configuration of a model."""
        spec, _ = find_model(request.name)
        with self._repository.lease(request.name, read_version(request.version)) as recommender:
            max_batch = self._repository.max_batch(request.name)
            return pb.ModelConfigResponse(config=configuration(spec, request.name, recommender, max_batch))

    def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: grpc.ServicerContext
    ) -> pb.ModelStatisticsResponse:
        """Statistics of one or all versions of a model, or of every model of every bundle."""
        if request.name:
            spec, _ = find_model(request.name)
            recommenders = self._repository.recommenders(request.name, read_version(request.version))
            counts = [model_statistics(request.name, spec, recommender) for recommender in recommenders]
        else:
            counts = [model_statistics(*model) for model in self._repository.all_models()]
        return pb.ModelStatisticsResponse(model_stats=counts)

    def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryIndexResponse:
        """All models by all their names, and why a model is not loaded."""
        self._check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(models=self._repository.index(only_ready=request.ready))

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        """Load the bundle of a model: its newest version, or that of the parameter "version"."""
        self._check_repository(request.repository_name)
        self._repository.load(request.model_name, request.parameters, self._change_timeout_s(context))
        return pb.RepositoryModelLoadResponse()

    def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload all versions of the bundle of a model."""
        self._check_repository(request.repository_name)
        self._repository.unload(request.model_name, self._change_timeout_s(context))
        return pb.RepositoryModelUnloadResponse()

    def SystemSharedMemoryStatus(
        self, request: pb.SystemSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryStatusResponse:
        """An empty list: no region can be registered."""
        return pb.SystemSharedMemoryStatusResponse()

    def SystemSharedMemoryRegister(
        self, request: pb.SystemSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Not supported."""
        raise Unsupported(_NO_SHARED_MEMORY)

    def SystemSharedMemoryUnregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Do nothing: no region is registered."""
        return pb.SystemSharedMemoryUnregisterResponse()

    def CudaSharedMemoryStatus(
        self, request: pb.CudaSharedMemoryStatusRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryStatusResponse:
        """An empty list: no region can be registered."""
        return pb.CudaSharedMemoryStatusResponse()

    def CudaSharedMemoryRegister(
        self, request: pb.CudaSharedMemoryRegisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Not supported."""
        raise Unsupported(_NO_SHARED_MEMORY)

    def CudaSharedMemoryUnregister(
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: grpc.ServicerContext
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Do nothing: no region is registered."""
        return pb.CudaSharedMemoryUnregisterResponse()

    def TraceSetting(self, request: pb.TraceSettingRequest, context: grpc.ServicerContext) -> pb.TraceSettingResponse:
        """The trace settings, which are fixed."""
        return trace_setting(request)

    def LogSettings(self, request: pb.LogSettingsRequest, context: grpc.ServicerContext) -> pb.LogSettingsResponse:
        """Change or return the log level."""
        return log_settings(request)

    @staticmethod
    def _change_timeout_s(context: grpc.ServicerContext) -> float:
        """How long this call may wait for another load or unload."""
        time_left_s = context.time_remaining()
        return CHANGE_TIMEOUT_S if time_left_s is None else min(CHANGE_TIMEOUT_S, time_left_s)

    def _check_repository(self, name: str) -> None:
        if name:
            raise InvalidInput("repository_name", f"repository '{name[:64]}' does not exist: leave the name empty")
