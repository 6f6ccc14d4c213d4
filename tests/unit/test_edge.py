"""A stream is counted as its client saw it end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from server.api.deadlines import Deadlines
from server.api.doors import Doors
from server.api.edge import Edge
from server.api.journal import Journal
from server.api.outcomes import Outcomes
from server.pb.swiftrec.v1.recommender_pb2 import StreamRecommendRequest
from server.telemetry.metrics import Metrics

_NAME = "/swiftrec.v1.RecommenderService/StreamRecommend"


def context(*, is_active: bool, left_s: float | None) -> SimpleNamespace:
    """gRPC's, of a call that goes on or has ended, with so much left of its deadline."""
    return SimpleNamespace(
        is_active=lambda: is_active,
        time_remaining=lambda: left_s,
        invocation_metadata=lambda: (),
        abort=None,
        set_trailing_metadata=lambda _metadata: None,
    )


@pytest.mark.parametrize(
    ("is_active", "left_s", "code"),
    [(True, 5.0, "OK"), (False, 5.0, "CANCELLED"), (False, None, "CANCELLED"), (False, 0.0, "DEADLINE_EXCEEDED")],
)
@pytest.mark.parametrize("leaves_early", [False, True])
def test_stream_is_counted_by_how_grpc_says_that_it_ended(
    is_active: bool, left_s: float | None, code: str, leaves_early: bool
) -> None:
    def behaviour(messages: Iterator[object], _context: grpc.ServicerContext) -> Iterator[object]:
        yield from messages

    metrics = Metrics()
    doors = Doors(2, lambda: 0.0)
    edge = Edge({_NAME: StreamRecommendRequest}, Outcomes(metrics, Journal(), [_NAME]), doors, doors, Deadlines())
    handler = edge.wrap(_NAME, grpc.stream_stream_rpc_method_handler(behaviour))
    stream: Any = handler.stream_stream
    answers = stream(iter([b"", b""]), context(is_active=is_active, left_s=left_s))
    next(answers)
    if leaves_early:
        answers.close()  # as gRPC does when nobody takes the next answer
    else:
        list(answers)
    code = "CANCELLED" if leaves_early and is_active else code
    assert metrics.calls.count("StreamRecommend", code) == 1
    assert doors.inside == 0


@pytest.mark.parametrize(("left_s", "code"), [(5.0, "CANCELLED"), (0.0, "DEADLINE_EXCEEDED")])
def test_stream_that_ends_while_its_next_message_is_read_is_counted_so_too(left_s: float, code: str) -> None:
    def messages() -> Iterator[bytes]:
        raise grpc.RpcError
        yield b""

    def behaviour(given: Iterator[object], _context: grpc.ServicerContext) -> Iterator[object]:
        yield from given

    metrics, doors = Metrics(), Doors(2, lambda: 0.0)
    edge = Edge({_NAME: StreamRecommendRequest}, Outcomes(metrics, Journal(), [_NAME]), doors, doors, Deadlines())
    stream: Any = edge.wrap(_NAME, grpc.stream_stream_rpc_method_handler(behaviour)).stream_stream
    gone = context(is_active=False, left_s=left_s)
    gone.abort_with_status = lambda _status: None
    assert list(stream(messages(), gone)) == []
    assert metrics.calls.count("StreamRecommend", code) == 1
