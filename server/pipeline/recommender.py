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
from server.pipeline.call import Call
from server.pipeline.domain import Recommendation, Request, Timings
from server.pipeline.ranking import Rankings
from server.pipeline.steps import Encoding, Parts


class Answered(Protocol):
    """Hears that a request ended."""

    def __call__(self, model: str, seconds: float, steps: Timings, *, is_success: bool) -> None:
        """`model` is "encoder" or "ranker"; `steps` has those that it came to."""


def _nobody(model: str, seconds: float, steps: Timings, *, is_success: bool) -> None:
    pass


class Recommender:
    """The pipeline of one bundle.

    Args:
        parts: what its steps work with.
        answered: hears that a request ended.
    """

    def __init__(self, parts: Parts, answered: Answered = _nobody) -> None:
        self._parts, self._clock, self._answered = parts, parts.clock, answered

    async def encode(self, texts: Sequence[str], call: Call, priority: int = DEFAULT_PRIORITY) -> NDArray[np.float32]:
        """Unit vectors of the texts, float32 [texts, dimensions].

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
            self._answered("encoder", self._clock() - started, Timings(1e3 * encoding.tokenise_s), is_success=False)
            raise
        seconds = self._clock() - started
        steps = Timings(1e3 * encoding.tokenise_s, 1e3 * (seconds - encoding.tokenise_s))
        self._answered("encoder", seconds, steps, is_success=True)
        return np.array(vectors)

    async def recommend(self, request: Request, call: Call) -> Recommendation:
        """Answer one request."""
        result = (await self.recommend_many([request], call))[0]
        if isinstance(result, SwiftrecError):
            raise result
        return result

    async def recommend_many(self, requests: Sequence[Request], call: Call) -> list[Recommendation | SwiftrecError]:
        """Answer each request, with a ranking or with the error that it met.

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
            for _ in requests:
                self._answered("ranker", self._clock() - started, rankings.timings, is_success=False)
            raise
        answers = rankings.outcomes()
        seconds = self._clock() - started
        for answer in answers:
            if isinstance(answer, SwiftrecError):
                self._answered("ranker", seconds, rankings.timings, is_success=False)
            else:
                self._answered("ranker", seconds, answer.timings, is_success=True)
        return answers
