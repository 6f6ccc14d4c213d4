"""Any bytes either parse or are refused in our words."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.errors import InvalidRequest
from swiftrec.server.messages import decode
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.worker.validate import InputLimits, to_request

_VALID = pb.RecommendRequest(
    history=[pb.Event(item_id="50"), pb.Event(text="Toy Story")],
    query="a good western",
    top_k=5,
    filter=pb.Filter(any_of=[pb.AttributeValues(name="genre", values=["Comedy"])]),
).SerializeToString()


def read(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        message = decode(pb.RecommendRequest, data)
        assert isinstance(message, pb.RecommendRequest)
        to_request(message, InputLimits())


@given(st.binary(max_size=200))
def test_random_bytes_are_parsed_or_refused(data: bytes) -> None:
    read(data)


@given(
    st.lists(st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(_VALID))
)
def test_mutated_requests_are_parsed_or_refused(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(_VALID)
    for place, byte in changes:
        data[place] = byte
    read(bytes(data[:length]))
