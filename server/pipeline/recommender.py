"""From texts and item ids to ranked items: whoever asks awaits his call once, for everything.

A list takes each step together, so that its texts share batches; an error stays with its entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.batching.policy import DEFAULT_PRIORITY
from server.errors import SwiftrecError
from server.models.encoder import ranker_half
from server.pipeline.call import Call
from server.pipeline.domain import Recommendation, Request, Timings
from server.pipeline.ranking import Rankings
from server.pipeline.steps import Encoding, Parts
from server.telemetry.statistics import ModelTime, longest


class RequestWatcher(Protocol):
    """Records how requests ended; `model` is "encoder" or "ranker"."""

    def answered(
        self, model: str, seconds: float, steps: Timings, models: ModelTime, lookup_s: float | None = None, /
    ) -> None:
        """Record a success: the time of its batches, and of the cache lookup if that found every vector."""

    def failed(self, model: str, seconds: float, steps: Timings, /) -> None:
        """Record an error; `steps` has the steps that the request came to."""


class _NoWatcher:
    def answered(
        self, _model: str, _seconds: float, _steps: Timings, _models: ModelTime, _lookup_s: float | None = None, /
    ) -> None:
        pass

    def failed(self, _model: str, _seconds: float, _steps: Timings, /) -> None:
        pass


class Recommender:
    """The pipeline of one bundle.

    Args:
        parts: what its steps work with.
        watcher: records how requests ended.
    """

    def __init__(self, parts: Parts, watcher: RequestWatcher | None = None) -> None:
        self._parts, self._clock, self._watcher = parts, parts.clock, watcher or _NoWatcher()

    async def encode(self, texts: Sequence[str], call: Call, priority: int = DEFAULT_PRIORITY) -> NDArray[np.float32]:
        """Unit vectors of the texts for the ranker, float32 [texts, dimensions].

        Raises:
            SwiftrecError: the first error that any of them met.
        """
        started = self._clock()
        call.expect(1)
        encoding = Encoding(self._parts, [texts], [priority], call, call.arrived)
        try:
            call.check()
            encoding.start()
            await call
            vectors = encoding.results[0]
            if isinstance(vectors, SwiftrecError):
                raise vectors
        except SwiftrecError:
            self._watcher.failed("encoder", self._clock() - started, Timings(1e3 * encoding.tokenise_s))
            raise
        seconds = self._clock() - started
        steps = Timings(1e3 * encoding.tokenise_s, 1e3 * (seconds - encoding.tokenise_s))
        models = encoding.times[0]
        self._watcher.answered("encoder", seconds, steps, models, None if models.has_run else encoding.lookup_s)
        return ranker_half(np.array(vectors), self._parts.catalogue.dimensions)

    async def recommend(self, request: Request, call: Call) -> Recommendation:
        """Answer one request."""
        result = (await self.recommend_many([request], call))[0]
        if isinstance(result, SwiftrecError):
            raise result
        return result

    async def recommend_many(
        self, requests: Sequence[Request], call: Call, *, is_one_request: bool = False
    ) -> list[Recommendation | SwiftrecError]:
        """Answer each request, with a ranking or with the error that it met.

        Args:
            requests: one or more.
            call: whose work this is.
            is_one_request: count them as one request, which fails if any of them does; else each is counted.

        Raises:
            DeadlineExceeded, Cancelled: the whole call is over.
        """
        if not requests:
            return []
        started = self._clock()
        call.expect(1)
        rankings = Rankings(self._parts, requests, call)
        try:
            call.check()  # who has gone already asks for nothing
            rankings.start()
            await call
        except SwiftrecError:
            for _ in requests[:1] if is_one_request else requests:
                self._watcher.failed("ranker", self._clock() - started, rankings.timings)
            raise
        answers = rankings.outcomes()
        seconds = self._clock() - started
        if is_one_request:
            self._count_one(answers, rankings, seconds)
        else:
            self._count_each(answers, rankings, seconds)
        return answers

    def _count_each(
        self, answers: Sequence[Recommendation | SwiftrecError], rankings: Rankings, seconds: float
    ) -> None:
        for answer, entry in zip(answers, rankings.entries, strict=True):
            if isinstance(answer, SwiftrecError):
                self._watcher.failed("ranker", seconds, rankings.timings)
            else:
                self._watcher.answered("ranker", seconds, answer.timings, entry.time)

    def _count_one(self, answers: Sequence[Recommendation | SwiftrecError], rankings: Rankings, seconds: float) -> None:
        if any(isinstance(answer, SwiftrecError) for answer in answers):
            self._watcher.failed("ranker", seconds, rankings.timings)
        else:
            slowest = longest([entry.time for entry in rankings.entries])
            self._watcher.answered("ranker", seconds, rankings.timings, slowest)
