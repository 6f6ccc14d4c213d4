"""Single calls beside batch calls: a step that they share is short, so that nobody waits for a whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.worker import Worker
from tests.server import small
from tests.server.workers import BATCH_RECOMMEND, RECOMMEND, SmallEngine

_ROW_S = 0.002  # of encoding a text: a step of 40 ms has about twenty


@pytest.fixture
def one(tmp_path: Path) -> SmallEngine:
    made = SmallEngine(small.write_bundle(tmp_path / "1"))
    made.encoder.row_s, made.ranker.row_s = _ROW_S, 0.0
    return made


def send(
    one: SmallEngine, worker: Worker, method: str, message: pb.RecommendRequest | pb.BatchRecommendRequest
) -> list[Reply]:
    replies: list[Reply] = []
    worker.admit(Ticket(method, message.SerializeToString(), one.clock.now + 1e6, replies.append))
    return replies


def send_batch(one: SmallEngine, worker: Worker) -> list[Reply]:
    requests = [pb.RecommendRequest(query=f"a{n}") for n in range(200)]
    return send(one, worker, BATCH_RECOMMEND, pb.BatchRecommendRequest(requests=requests))


def single_s(one: SmallEngine, worker: Worker) -> float:
    """Time of a single call that arrives while a step runs: what is left of the step, at most, and its answer."""
    began = one.clock.now
    worker.step()
    replies = send(one, worker, RECOMMEND, pb.RecommendRequest(query="b"))
    while not replies:
        worker.step()
    return one.clock.now - began


def test_single_calls_take_little_longer_beside_a_batch(one: SmallEngine) -> None:
    worker = one.worker()
    alone_s = single_s(one, worker)
    batch = send_batch(one, worker)
    beside = [single_s(one, worker) for _ in range(20)]
    assert not batch
    assert max(beside) <= 3 * alone_s, "a step of about its own length before it, and an entry in its own"
    while not batch:
        worker.step()


def test_batch_without_single_calls_has_long_steps(one: SmallEngine) -> None:
    """Negative control: that is what a single call would wait for."""
    worker = one.worker()
    batch, steps = send_batch(one, worker), list[float]()
    while not batch:
        began = one.clock.now
        worker.step()
        steps.append(one.clock.now - began)
    assert max(steps) > 10 * _ROW_S
