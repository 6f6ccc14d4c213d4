"""Texts to requests and replies to item ids, for each protocol that is spoken here."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tritonclient.grpc import service_pb2 as oip

from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb

RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"
LIST = "/swiftrec.v1.RecommenderService/BatchRecommend"
STREAM = "/swiftrec.v1.RecommenderService/StreamRecommend"
INFER = "/inference.GRPCInferenceService/ModelInfer"


def post(path: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request with JSON."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def json_ids(reply: bytes) -> list[list[str]]:
    """A JSON list of ids."""
    return [list(json.loads(reply))]


def json_lists(reply: bytes) -> list[list[str]]:
    """A JSON list of lists of ids."""
    return [list(ids) for ids in json.loads(reply)]


def pack_infer(texts: Sequence[str]) -> bytes:
    """ModelInfer of model "recommend" with TEXT [1, 1]."""
    (text,) = texts
    tensor = oip.ModelInferRequest.InferInputTensor(name="TEXT", datatype="BYTES", shape=[1, 1])
    raw = _length(text.encode()) + text.encode()
    made: bytes = oip.ModelInferRequest(
        model_name="recommend", inputs=[tensor], raw_input_contents=[raw]
    ).SerializeToString()
    return made


def unpack_infer(reply: bytes) -> list[list[str]]:
    """ITEM_ID [1, 10] of a ModelInfer, raw or typed."""
    response = oip.ModelInferResponse.FromString(reply)
    if not response.raw_output_contents:
        return [[item.decode() for item in response.outputs[0].contents.bytes_contents]]
    raw, ids = response.raw_output_contents[0], []
    while raw:
        end = 4 + int.from_bytes(raw[:4], "little")
        ids.append(raw[4:end].decode())
        raw = raw[end:]
    return [ids]


def pack_one(texts: Sequence[str]) -> bytes:
    """Recommend: query only, ten items."""
    return _request(*texts).SerializeToString()


def unpack_one(reply: bytes) -> list[list[str]]:
    """Of a Recommend."""
    return [_ids(pb.RecommendResponse.FromString(reply))]


def pack_list(texts: Sequence[str]) -> bytes:
    """BatchRecommend of these queries."""
    return pb.BatchRecommendRequest(requests=map(_request, texts)).SerializeToString()


def unpack_list(reply: bytes) -> list[list[str]]:
    """Of a BatchRecommend; an entry that failed has no ids."""
    return [_ids(result.response) for result in pb.BatchRecommendResponse.FromString(reply).results]


def pack_streamed(texts: Sequence[str]) -> bytes:
    """One message of a StreamRecommend."""
    return pb.StreamRecommendRequest(request=_request(*texts)).SerializeToString()


def unpack_streamed(reply: bytes) -> list[list[str]]:
    """Of one message of a StreamRecommend; one that failed has no ids."""
    return [_ids(pb.StreamRecommendResponse.FromString(reply).result.response)]


def _length(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little")


def _request(query: str) -> pb.RecommendRequest:
    return pb.RecommendRequest(query=query, top_k=10)


def _ids(response: pb.RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]
