"""Texts to requests and responses to item ids, for each protocol of the compared servers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tritonclient.grpc import service_pb2 as oip

from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb

RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"
BATCH = "/swiftrec.v1.RecommenderService/BatchRecommend"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def post(path: str, body: bytes) -> bytes:
    """A complete HTTP/1.1 request with JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def json_ids(response: bytes) -> list[list[str]]:
    """A JSON list of ids."""
    return [list(json.loads(response))]


def json_lists(response: bytes) -> list[list[str]]:
    """A JSON list of lists of ids."""
    return [list(ids) for ids in json.loads(response)]


def pack_infer(texts: Sequence[str]) -> bytes:
    """ModelInfer of model "recommend" with TEXT [1, 1]."""
    (text,) = texts
    tensor = oip.ModelInferRequest.InferInputTensor(name="TEXT", datatype="BYTES", shape=[1, 1])
    raw = _length(text.encode()) + text.encode()
    serialised: bytes = oip.ModelInferRequest(
        model_name="recommend", inputs=[tensor], raw_input_contents=[raw]
    ).SerializeToString()
    return serialised


def unpack_infer(response: bytes) -> list[list[str]]:
    """ITEM_ID [1, 10] of a ModelInfer, raw or typed."""
    message = oip.ModelInferResponse.FromString(response)
    if not message.raw_output_contents:
        return [[item.decode() for item in message.outputs[0].contents.bytes_contents]]
    raw, ids = message.raw_output_contents[0], []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        ids.append(raw[4:end].decode())
        raw = raw[end:]
    return [ids]


def pack_one(texts: Sequence[str]) -> bytes:
    """Recommend: query only, ten items."""
    return _request(*texts).SerializeToString()


def unpack_one(response: bytes) -> list[list[str]]:
    """Ids of a Recommend."""
    return [_ids(pb.RecommendResponse.FromString(response))]


def pack_batch(texts: Sequence[str]) -> bytes:
    """BatchRecommend of these queries, ten items each."""
    return pb.BatchRecommendRequest(requests=map(_request, texts)).SerializeToString()


def unpack_batch(response: bytes) -> list[list[str]]:
    """Ids of a BatchRecommend; an entry that failed has none."""
    return [_ids(result.response) for result in pb.BatchRecommendResponse.FromString(response).results]


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little")


def _request(query: str) -> pb.RecommendRequest:
    return pb.RecommendRequest(query=query, top_k=10)


def _ids(response: pb.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]
