"""The thread that drives a worker: a death is told to every call, and what was sent before the end is answered."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import ShuttingDown
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.loop import WorkerThread
from swiftrec.server.worker.methods import recommender_methods
from swiftrec.server.worker.worker import Worker
from tests.server import small
from tests.server.workers import RECOMMEND, SmallEngine
from tests.until import LONG

_MESSAGE = pb.RecommendRequest(query="a").SerializeToString()


class DyingWorker(Worker):
    """Has a bug that no call is to blame for."""

    def step(self) -> None:
        """Fails."""
        raise RuntimeError("an error of ours")


class Replies:
    """Replies, and a wait for them."""

    def __init__(self) -> None:
        self.all: list[Reply] = []
        self._come = threading.Semaphore(0)

    def ticket(self) -> Ticket:
        def done(reply: Reply) -> None:
            self.all.append(reply)
            self._come.release()

        return Ticket(RECOMMEND, _MESSAGE, 1e12, done)

    def wait(self, number: int) -> None:
        for _ in range(number):
            assert self._come.acquire(timeout=LONG)


@pytest.fixture
def one(tmp_path: Path) -> SmallEngine:
    return SmallEngine(small.write_bundle(tmp_path / "1"))


def test_thread_that_dies_refuses_what_waits_and_what_comes_and_says_so(one: SmallEngine) -> None:
    died, replies = list[str](), Replies()
    worker = DyingWorker(recommender_methods(one.services()), Limits(), clock=one.clock)
    thread = WorkerThread(worker, died.append)
    for _ in range(3):
        thread.send(replies.ticket())
    thread.start()
    replies.wait(3)
    thread.send(replies.ticket())
    replies.wait(1)
    thread.stop(LONG)
    assert [type(reply) for reply in replies.all] == [ShuttingDown] * 4
    assert len(died) == 1
    one.check_unused()


def test_what_was_sent_before_the_end_is_answered_and_what_was_cancelled_is_not(one: SmallEngine) -> None:
    replies, cancelled = Replies(), Replies()
    thread = WorkerThread(one.worker())
    for _ in range(20):
        thread.send(replies.ticket())
    gone = cancelled.ticket()
    thread.send(gone)
    thread.cancel(gone)
    thread.start()
    thread.stop(LONG)
    assert [type(reply) for reply in replies.all] == [bytes] * 20
    assert cancelled.all == []
    assert thread.load == (0, 0, 0.0)
    one.check_unused()
