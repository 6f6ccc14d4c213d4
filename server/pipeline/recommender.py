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
from server.pipeline.steps import Encoding, Parts, Ranking, outcomes


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
        failed: list[SwiftrecError] = []

        def then(error: SwiftrecError | None) -> None:
            if error:
                failed.append(error)
            call.arrived()

        started = self._clock()
        call.expect(1)
        encoding = Encoding(self._parts, texts, call, priority, then)
        try:
            encoding.start()
            await call
            if failed:
                raise failed[0]
        except SwiftrecError:
            self._answered("encoder", self._clock() - started, Timings(1e3 * encoding.tokenise_s), is_success=False)
            raise
        seconds = self._clock() - started
        steps = Timings(1e3 * encoding.tokenise_s, 1e3 * (seconds - encoding.tokenise_s))
        self._answered("encoder", seconds, steps, is_success=True)
        return np.array(encoding.vectors)

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
        call.expect(len(requests))
        rankings = [Ranking(self._parts, request, call) for request in requests]
        for ranking in rankings:
            ranking.start()
        try:
            await call
        except SwiftrecError:
            for ranking in rankings:
                self._answered("ranker", self._clock() - started, ranking.timings, is_success=False)
            raise
        answers = outcomes(self._parts, rankings)
        for ranking, outcome in zip(rankings, answers, strict=True):
            is_success = not isinstance(outcome, SwiftrecError)
            self._answered("ranker", self._clock() - started, ranking.timings, is_success=is_success)
        return answers
