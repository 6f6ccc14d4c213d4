"""The two models of a bundle: their tensors, metadata and configuration."""

from __future__ import annotations

from dataclasses import dataclass

from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.domain import DEFAULT_PRIORITY, PRIORITIES
from swiftrec.server.errors import InvalidInput, NotFound
from swiftrec.server.models.device import DEVICES
from swiftrec.server.models.registry import BUNDLE_NAME
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.worker.open_inference.tensors import TensorSpec

_PLATFORM = "onnxruntime_onnx"
_TYPES = {
    "BYTES": config_pb.DataType.TYPE_STRING,
    "INT32": config_pb.DataType.TYPE_INT32,
    "FP32": config_pb.DataType.TYPE_FP32,
}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: its inputs and outputs; a dimension of -2 stands for that of the bundle's vectors."""

    name: str
    stats_key: str  # the model of the bundle whose statistics are reported
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[tuple[str, str], ...] = ()  # parameters of the configuration that explain inputs

    def output(self, name: str) -> TensorSpec:
        """Find an output.

        Raises:
            InvalidRequest: there is no output of that name.
        """
        for spec in self.outputs:
            if spec.name == name:
                return spec
        raise InvalidInput(name, f"unexpected inference output '{name}' for model '{self.name}'")


ENCODER = ModelSpec(
    "encoder", "encoder", (TensorSpec("TEXT", "BYTES", (-1, 1)),), (TensorSpec("EMBEDDING", "FP32", (-1, -2)),)
)
RECOMMENDER = ModelSpec(
    "recommender",
    "ranker",
    (
        TensorSpec("QUERY", "BYTES", (-1, 1), is_optional=True),
        TensorSpec("HISTORY", "BYTES", (-1, -1), is_optional=True),
        TensorSpec("K", "INT32", (-1, 1), is_optional=True),
    ),
    (TensorSpec("ITEM_ID", "BYTES", (-1, -1)), TensorSpec("SCORE", "FP32", (-1, -1))),
    notes=(
        ("HISTORY", "item ids, or texts after 'text:'; 'id:' before an id keeps one that begins with 'text:' or 'id:'"),
    ),
)
MODELS = {spec.name: spec for spec in (ENCODER, RECOMMENDER)}


def find_model(name: str) -> tuple[ModelSpec, str]:
    """The model and the bundle ("" for the default) that a name refers to.

    "encoder" and "recommender" are those of the default bundle, "BUNDLE.encoder" and "BUNDLE.recommender" those of
    another, and "BUNDLE" alone is its recommender.

    Raises:
        NotFound: the name is not valid.
    """
    bundle, dot, model = name.rpartition(".")
    if model in MODELS and (bundle or not dot):
        return MODELS[model], bundle
    if not BUNDLE_NAME.fullmatch(name):
        raise NotFound(f"Request for unknown model: '{name}' is not found")
    return RECOMMENDER, name


def read_version(text: str) -> int:
    """A model version, or 0 for the newest.

    Raises:
        InvalidRequest: it is not a positive integer.
    """
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or len(text) > 18 or int(text) == 0:
        raise InvalidInput(
            "model_version",
            f"failed to get model version from specified version string '{text[:32]}', "
            "version should be an integer > 0",
        )
    return int(text)


def metadata(spec: ModelSpec, name: str, versions: list[int], recommender: Recommender) -> pb.ModelMetadataResponse:
    """The metadata of a model."""

    def tensors(specs: tuple[TensorSpec, ...]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
        return [
            pb.ModelMetadataResponse.TensorMetadata(name=s.name, datatype=s.datatype, shape=_shape(s, recommender))
            for s in specs
        ]

    return pb.ModelMetadataResponse(
        name=name,
        versions=[str(version) for version in versions],
        platform=_PLATFORM,
        inputs=tensors(spec.inputs),
        outputs=tensors(spec.outputs),
    )


def configuration(spec: ModelSpec, name: str, recommender: Recommender, max_batch: int) -> config_pb.ModelConfig:
    """The Triton configuration of a model, including dynamic batching."""
    limits = recommender.options.limits
    return config_pb.ModelConfig(
        name=name,
        platform=_PLATFORM,
        backend="onnxruntime",
        max_batch_size=max_batch,
        input=[
            config_pb.ModelInput(
                name=s.name, data_type=_TYPES[s.datatype], dims=_shape(s, recommender)[1:], optional=s.is_optional
            )
            for s in spec.inputs
        ],
        output=[
            config_pb.ModelOutput(name=s.name, data_type=_TYPES[s.datatype], dims=_shape(s, recommender)[1:])
            for s in spec.outputs
        ],
        parameters={name: config_pb.ModelParameter(string_value=text) for name, text in spec.notes},
        response_cache=config_pb.ModelResponseCache(enable=True) if _has_cache(spec, recommender) else None,
        dynamic_batching=config_pb.ModelDynamicBatching(
            max_queue_delay_microseconds=0,
            priority_levels=PRIORITIES[-1],
            default_priority_level=DEFAULT_PRIORITY,
            default_queue_policy=config_pb.ModelQueuePolicy(
                timeout_action=config_pb.ModelQueuePolicy.REJECT,
                allow_timeout_override=True,
                max_queue_size=limits.queue_requests,
            ),
        ),
        instance_group=[
            config_pb.ModelInstanceGroup(
                name=f"{name}_0",
                count=recommender.options.session_count(),
                kind=config_pb.ModelInstanceGroup.KIND_CPU
                if DEVICES[recommender.options.device].uses_cores
                else config_pb.ModelInstanceGroup.KIND_GPU,
            )
        ],
    )


def _has_cache(spec: ModelSpec, recommender: Recommender) -> bool:
    """Whether a model has a response cache in Triton's sense: responses without running the model."""
    return spec is ENCODER and recommender.options.cache_bytes > 0


def _shape(spec: TensorSpec, recommender: Recommender) -> list[int]:
    return [recommender.bundle.manifest.dimensions if size == -2 else size for size in spec.shape]
