"""A worker over a small engine, driven by the test with a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.batching.admission import Reject, reject
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import NotFound
from swiftrec.server.messages import MessageLimits
from swiftrec.server.models.bundle import RANKER, load_bundle
from swiftrec.server.models.engines import Lease, Served
from swiftrec.server.models.registry import Registry
from swiftrec.server.models.session import Session
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.telemetry.metrics import Metrics
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.methods import Services, recommender_methods
from swiftrec.server.worker.validate import InputLimits
from swiftrec.server.worker.worker import Worker
from tests.server.support import small

RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"
BATCH_RECOMMEND = "/swiftrec.v1.RecommenderService/BatchRecommend"
STREAM_RECOMMEND = "/swiftrec.v1.RecommenderService/StreamRecommend"
ENCODE = "/swiftrec.v1.EncoderService/Encode"
Row = tuple[int, ...]


class Clock:
    """A clock that stands still until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowEncoder(small.TinyEncoder):
    """Takes `row_s` for each row, fails on rows of `fails` and answers NaN for those of `nans` (their first token)."""

    row_s = 1e-3

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.fails: Collection[int] = ()
        self.nans: Collection[int] = ()
        self.on_run: Callable[[Sequence[Row]], None] = lambda _rows: None

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Both halves of each row."""
        pairs = zip(feeds["input_ids"], feeds["attention_mask"], strict=True)
        rows = [tuple(ids[mask > 0].tolist()) for ids, mask in pairs]
        self._clock.now += self.row_s * len(rows)
        self.on_run(rows)
        if any(row[1] in self.fails for row in rows):
            raise ValueError("cannot encode it")
        vectors = super().run(feeds)
        vectors[[row[1] in self.nans for row in rows]] = np.nan
        return vectors


class SlowRanker(small.TinyRanker):
    """Takes `row_s` for each row."""

    row_s = 5e-4

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """User vectors."""
        self._clock.now += self.row_s * len(feeds["mask"])
        return super().run(feeds)


class SmallEngine:
    """An engine of a small bundle whose models can be made slow or faulty, and its users.

    Attributes:
        served: the engine and its leases.
    """

    def __init__(self, folder: Path, cache_bytes: int = 0, limits: Limits | None = None) -> None:
        self.clock = Clock()
        self.encoder, self.ranker = SlowEncoder(self.clock), SlowRanker(self.clock)

        def open_session(path: Path, _device: str, _threads: int) -> Session:
            return self.ranker if path.name == RANKER else self.encoder

        options = EngineOptions(sessions=1, cache_bytes=cache_bytes, limits=limits or Limits())
        self.engine = Recommender(load_bundle(folder), options, open_session=open_session, clock=self.clock)
        self.engine.start()
        self.served = Served(self.engine)

    def lease(self, name: str = "", version: int = 0) -> Lease[Recommender]:
        """As a registry with only this bundle."""
        if name not in {"", "small"} or version not in {0, 1}:
            raise NotFound(f"no bundle {name} is loaded")
        assert self.served.acquire()
        return Lease(self.served)

    def row(self, text: str) -> Row:
        """Tokens of a text."""
        return tuple(self.engine.tokenizer.encode([text])[0])

    def check_unused(self) -> None:
        """No lease is left."""
        self.served.retire()
        assert self.served.idle.is_set()
        self.served = Served(self.engine)

    def services(self, sizes: MessageLimits | None = None) -> Services:
        """What the methods work with."""
        return Services(cast("Registry[Recommender]", self), InputLimits(), sizes or MessageLimits(), Metrics())

    def worker(self, limits: Limits | None = None, *, reject: Reject = reject) -> Worker:
        """A worker with the methods of swiftrec.v1."""
        return Worker(recommender_methods(self.services()), limits or Limits(), clock=self.clock, reject=reject)


def answer_alone(worker: Worker, method: str, message: bytes, deadline: float = 1e9) -> Reply:
    """The reply to a call without other calls."""
    replies: list[Reply] = []
    worker.admit(Ticket(method, message, deadline, replies.append))
    while worker.has_work:
        worker.step()
    (reply,) = replies
    return reply
