"""What the replies say: time of each step on the server, and answers that are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.summary import RESOURCE_EXHAUSTED
from swiftrec.benchmarks.workload import Method
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeResponse
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendResponse, RecommendResponse

STEPS = ("tokenise", "encode", "rank", "retrieve", "total")


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the replies that were looked at: milliseconds of each step, [replies, steps]; how many were no answer.

    `refused` entries of lists were turned away (RESOURCE_EXHAUSTED), which is an answer. `bundles` are those that
    answered, as "name/version".
    """

    steps_ms: NDArray[np.float32]
    wrong: int
    bundles: tuple[str, ...]
    refused: int = 0

    @classmethod
    def joined(cls, parts: Sequence[Sample]) -> Sample:
        """Those of several clients."""
        bundles = tuple(sorted({name for part in parts for name in part.bundles}))
        wrong, refused = sum(part.wrong for part in parts), sum(part.refused for part in parts)
        return cls(np.concatenate([part.steps_ms for part in parts]), wrong, bundles, refused)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50 and p99 of each step in milliseconds; nothing without replies that tell."""
        if not len(self.steps_ms):
            return {}
        found = np.percentile(self.steps_ms, [50, 99], axis=0)
        return {step: {"p50_ms": float(found[0, n]), "p99_ms": float(found[1, n])} for n, step in enumerate(STEPS)}


def read(method: Method, replies: Sequence[bytes]) -> Sample:
    """Decode replies. A ranking without items, an entry with an error and a vector of no length are no answers."""
    if method == "encode":
        vectors = [EncodeResponse.FromString(reply) for reply in replies]
        wrong = sum(len(one.vectors) != 4 * one.rows * one.dimensions or not one.rows for one in vectors)
        return Sample(np.zeros((0, len(STEPS)), np.float32), wrong, _bundles(vectors))
    is_list = method == "batch"
    rankings = _entries(replies) if is_list else [RecommendResponse.FromString(reply) for reply in replies]
    refused = sum(len(refusals(reply)) for reply in replies) if is_list else 0
    steps = [[getattr(one.timings, f"{step}_ms") for step in STEPS] for one in rankings if one.items]
    wrong = sum(not one.items for one in rankings) - refused
    return Sample(np.array(steps, np.float32).reshape(-1, len(STEPS)), wrong, _bundles(rankings), refused)


def refusals(reply: bytes) -> list[int]:
    """Places of the entries of a list that the server turned away because it was full."""
    results = BatchRecommendResponse.FromString(reply).results
    return [n for n, one in enumerate(results) if one.error.code == RESOURCE_EXHAUSTED]


def _entries(replies: Sequence[bytes]) -> list[RecommendResponse]:
    """The rankings of lists; one without items stands for an entry's error."""
    return [one.response for reply in replies for one in BatchRecommendResponse.FromString(reply).results]


def _bundles(replies: Sequence[EncodeResponse] | Sequence[RecommendResponse]) -> tuple[str, ...]:
    return tuple(sorted({f"{one.bundle}/{one.version}" for one in replies if one.bundle}))
