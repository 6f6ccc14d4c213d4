"""The gRPC services of the server: their names, the request types of their methods, and the kinds of methods."""

from __future__ import annotations

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2, service_pb2_grpc

from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc, recommender_pb2, recommender_pb2_grpc

SERVICES = ("swiftrec.v1.RecommenderService", "swiftrec.v1.EncoderService", "inference.GRPCInferenceService")
"""The services that recommend, encode and run models."""
ALL_SERVICES = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
"""With those of gRPC."""
_CONTRACTS = (recommender_pb2.DESCRIPTOR, encoder_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR)
REQUESTS: dict[str, type[Message]] = {
    f"/{service.full_name}/{method.name}": message_factory.GetMessageClass(method.input_type)
    for contract in _CONTRACTS
    for service in contract.services_by_name.values()
    for method in service.methods
    if method.full_name != "grpc.health.v1.Health.Watch"
}
"""The request type of each method; Watch of the health service is handled as a stream."""
PROBES = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
)
"""Methods that tell whether the server accepts calls."""
CHANGES = frozenset(
    {
        "/inference.GRPCInferenceService/RepositoryModelLoad",
        "/inference.GRPCInferenceService/RepositoryModelUnload",
    }
)
"""Methods that load or unload a bundle."""


def register_services(
    server: grpc.Server,
    inference: service_pb2_grpc.GRPCInferenceServiceServicer,
    health_servicer: health.HealthServicer,
    *,
    has_reflection: bool,
) -> None:
    """Register the methods of all services with a server; the worker handles those of the recommender and encoder."""
    recommender_pb2_grpc.add_RecommenderServiceServicer_to_server(
        recommender_pb2_grpc.RecommenderServiceServicer(),  # type: ignore[abstract] # the worker handles its methods
        server,
    )
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(
        encoder_pb2_grpc.EncoderServiceServicer(),  # type: ignore[abstract] # the worker handles its methods
        server,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    if has_reflection:
        reflection.enable_server_reflection(ALL_SERVICES, server)
