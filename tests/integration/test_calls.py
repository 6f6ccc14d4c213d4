"""A call's own time: deadlines, clients that go, calls without a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from server.api.calls import Calls
from server.api.streams import WIDTH
from server.app import App
from server.errors import Cancelled, DeadlineExceeded
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from server.pipeline.call import Call, finish
from server.pipeline.domain import Request
from tests.until import LONG


async def awaited(call: Call) -> None:
    await call


class Context:
    """The part of a gRPC context that `Calls` asks."""

    def __init__(self, remaining: float | None) -> None:
        self._remaining = remaining

    def time_remaining(self) -> float | None:
        return self._remaining

    def add_callback(self, callback: Callable[[], None], /) -> bool:
        return True


@pytest.mark.parametrize(("remaining", "seconds"), [(None, 5.0), (9e18, 5.0), (1.0, 1.0), (60.0, 5.0)])
def test_call_takes_the_clients_deadline_or_an_earlier_default(remaining: float | None, seconds: float) -> None:
    before = time.monotonic()
    call = Calls(5.0).of(Context(remaining)).call()  # type: ignore[arg-type] # a hand-written part of a context
    assert before + seconds <= call.deadline <= time.monotonic() + seconds


@pytest.mark.parametrize(
    ("remaining", "asked", "seconds"),
    [(1.0, 0.5, 0.5), (1.0, 3.0, 1.0), (9.0, 8.0, 5.0), (None, 3.0, 3.0), (None, 8.0, 5.0), (None, 1e30, 5.0)],
)
def test_call_takes_the_earliest_of_client_request_and_default(
    remaining: float | None, asked: float, seconds: float
) -> None:
    before = time.monotonic()
    call = Calls(5.0).of(Context(remaining)).call(asked)  # type: ignore[arg-type] # a hand-written part of a context
    assert before + seconds <= call.deadline <= time.monotonic() + seconds


def test_late_request_is_refused_and_never_run(app: App) -> None:
    with app.registry.use() as engine, pytest.raises(DeadlineExceeded):
        finish(engine.recommender.recommend(Request(query="a good western"), Call(time.monotonic() - 1)))


def test_cancelled_calls_leave_the_server_answering(recommender: RecommenderServiceStub) -> None:
    request = pb.RecommendRequest(query="a good western")
    for _ in range(50):
        future = recommender.Recommend.future(request, timeout=10)
        future.cancel()  # type: ignore[no-untyped-call]
    assert len(recommender.Recommend(request, timeout=10).items) == 10


def test_call_without_a_deadline_is_answered(recommender: RecommenderServiceStub) -> None:
    assert recommender.Recommend(pb.RecommendRequest(query="a good western")).items


def test_stream_keeps_one_callback_however_many_messages_it_has() -> None:
    class Kept(Context):
        def __init__(self) -> None:
            super().__init__(None)
            self.callbacks: list[Callable[[], None]] = []

        def add_callback(self, callback: Callable[[], None], /) -> bool:
            self.callbacks.append(callback)
            return True

    context = Kept()
    caller = Calls(5.0).of(context)  # type: ignore[arg-type] # a hand-written part of a context
    made = [caller.call() for _ in range(100)]
    assert len(context.callbacks) == 1
    context.callbacks[0]()
    assert [call.is_cancelled for call in made] == [False] * (100 - WIDTH) + [True] * WIDTH
    assert caller.call().is_cancelled


def test_call_that_was_over_before_it_expected_anything_does_not_wait() -> None:
    call = Call(time.monotonic() + LONG)
    call.cancel()
    call.expect(1)
    with pytest.raises(Cancelled):  # who waits in vain meets the deadline
        finish(awaited(call))


def test_call_whose_deadline_has_passed_says_so_even_if_it_was_cancelled() -> None:
    call = Call(time.monotonic() - 1)
    call.expect(1)
    call.cancel()
    with pytest.raises(DeadlineExceeded):
        finish(awaited(call))
