"""Valid messages of every method of both protocols: what mutation starts from."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as triton

from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb

RECOMMENDER, ENCODER, INFERENCE = (
    "/swiftrec.v1.RecommenderService/",
    "/swiftrec.v1.EncoderService/",
    "/inference.GRPCInferenceService/",
)
RECOMMEND = RECOMMENDER + "Recommend"
STREAMS = frozenset({RECOMMENDER + "StreamRecommend", INFERENCE + "ModelStreamInfer"})
# These change what serves: a mutation must not reach the bundle under test.
CHANGES = frozenset({INFERENCE + "RepositoryModelLoad", INFERENCE + "RepositoryModelUnload"})
# How often a method is chosen: the ones with more to read get more.
_WEIGHTS = {
    "ModelInfer": 10,
    "ModelStreamInfer": 4,
    "Recommend": 8,
    "BatchRecommend": 5,
    "StreamRecommend": 4,
    "Encode": 4,
}


def packed(*values: bytes) -> bytes:
    """BYTES elements as raw contents."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def seeds(bundle: str = "movielens-quick") -> dict[str, list[Message]]:
    """Full method name -> valid requests."""
    return {
        **{RECOMMENDER + name: actual for name, actual in _recommender(bundle).items()},
        ENCODER + "Encode": [
            encoder_pb2.EncodeRequest(texts=["a good western"]),
            encoder_pb2.EncodeRequest(texts=["a", "films about the sea", "x" * 300], bundle=bundle, priority=3),
        ],
        **{INFERENCE + name: actual for name, actual in _inference(bundle).items()},
    }


def weighted(methods: Sequence[str]) -> list[int]:
    """How often each method is chosen."""
    return [_WEIGHTS.get(method.rpartition("/")[2], 1) for method in methods]


def _recommender(bundle: str) -> Mapping[str, list[Message]]:
    comedies = pb.AttributeValues(name="genre", values=["Comedy", "Western"])
    nineties = pb.AttributeValues(name="decade", values=["1990s"])
    sample = [
        pb.RecommendRequest(query="a good western"),
        pb.RecommendRequest(history=[pb.Event(item_id="50"), pb.Event(text="Toy Story (1995)")], top_k=5, priority=2),
        pb.RecommendRequest(
            history=[pb.Event(item_id=str(n)) for n in range(1, 30)],
            query="films about the sea",
            filter=pb.Filter(
                allowed_item_ids=["1", "2", "3", "50"],
                denied_item_ids=["2"],
                any_of=[comedies],
                all_of=[nineties],
                none_of=[pb.AttributeValues(name="genre", values=["Drama"])],
            ),
            exclude_history=False,
            bundle=bundle,
        ),
    ]
    return {
        "Recommend": list(sample),
        "BatchRecommend": [pb.BatchRecommendRequest(requests=sample), pb.BatchRecommendRequest(requests=sample[:1])],
        "StreamRecommend": [pb.StreamRecommendRequest(request=entry) for entry in sample],
    }


def _infer() -> list[Message]:
    raw = triton.ModelInferRequest(model_name="encoder", id="1")
    raw.inputs.add(name="TEXT", datatype="BYTES", shape=(2, 1))
    raw.raw_input_contents.append(packed(b"a good western", b"Toy Story"))
    raw.outputs.add(name="EMBEDDING").parameters["classification"].int64_param = 3
    typed = triton.ModelInferRequest(model_name="encoder", model_version="")
    typed.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1)).contents.bytes_contents.append(b"a good western")
    typed.parameters["timeout"].int64_param = 2_000_000
    typed.parameters["priority"].uint64_param = 1
    typed.parameters["triton_enable_empty_final_response"].bool_param = True
    ranked = triton.ModelInferRequest(model_name="recommender")
    ranked.inputs.add(name="QUERY", datatype="BYTES", shape=(2, 1))
    ranked.inputs.add(name="HISTORY", datatype="BYTES", shape=(2, 2))
    ranked.inputs.add(name="K", datatype="INT32", shape=(2, 1))
    history = packed(b"50", b"text:Toy Story (1995)", b"", b"1")
    ranked.raw_input_contents.extend([packed(b"western", b""), history, struct.pack("<2i", 5, 10)])
    ranked.parameters["exclude_history"].bool_param = False
    ranked.outputs.add(name="ITEM_ID")
    ranked.outputs.add(name="SCORE")
    return [raw, typed, ranked]


def _inference(bundle: str) -> Mapping[str, list[Message]]:
    model = {"name": f"{bundle}.encoder"}
    load = triton.RepositoryModelLoadRequest(model_name="other")
    load.parameters["version"].string_param = "1"
    trace = triton.TraceSettingRequest(model_name="encoder")
    trace.settings["trace_level"].value.append("OFF")
    log = triton.LogSettingsRequest()
    log.settings["log_info"].bool_param = True
    log.settings["log_verbose_level"].uint32_param = 0
    return {
        "ServerLive": [triton.ServerLiveRequest()],
        "ServerReady": [triton.ServerReadyRequest()],
        "ModelReady": [triton.ModelReadyRequest(**model, version="1")],
        "ServerMetadata": [triton.ServerMetadataRequest()],
        "ModelMetadata": [triton.ModelMetadataRequest(**model)],
        "ModelInfer": _infer(),
        "ModelStreamInfer": _infer(),
        "ModelConfig": [triton.ModelConfigRequest(**model)],
        "ModelStatistics": [triton.ModelStatisticsRequest(**model), triton.ModelStatisticsRequest()],
        "RepositoryIndex": [triton.RepositoryIndexRequest(ready=True)],
        "RepositoryModelLoad": [load],
        "RepositoryModelUnload": [triton.RepositoryModelUnloadRequest(model_name="other")],
        "SystemSharedMemoryStatus": [triton.SystemSharedMemoryStatusRequest(name="region")],
        "SystemSharedMemoryRegister": [triton.SystemSharedMemoryRegisterRequest(name="region", key="k", byte_size=8)],
        "SystemSharedMemoryUnregister": [triton.SystemSharedMemoryUnregisterRequest(name="region")],
        "CudaSharedMemoryStatus": [triton.CudaSharedMemoryStatusRequest(name="region")],
        "CudaSharedMemoryRegister": [
            triton.CudaSharedMemoryRegisterRequest(name="region", raw_handle=b"x", device_id=0, byte_size=8)
        ],
        "CudaSharedMemoryUnregister": [triton.CudaSharedMemoryUnregisterRequest(name="region")],
        "TraceSetting": [trace],
        "LogSettings": [log],
    }
