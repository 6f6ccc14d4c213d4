"""What the responses of a load run say: the time of each step, and errors in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.statistics import RESOURCE_EXHAUSTED
from swiftrec.benchmarks.workload import MethodName
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeResponse
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendResponse, RecommendResponse

STEPS = ("tokenise", "encode", "rank", "retrieve", "total")


@dataclass(frozen=True, slots=True)
class ResponseSample:
    """What a sample of the responses says: milliseconds of each step [responses, steps], and errors in them.

    `wrong` counts responses without a result. `rejected` counts entries of batches that the server rejected with
    RESOURCE_EXHAUSTED, which is a proper response. `bundles` are those that responded, as "name/version".
    """

    steps_ms: NDArray[np.float32]
    wrong: int
    bundles: tuple[str, ...]
    rejected: int = 0

    @classmethod
    def merge(cls, parts: Sequence[ResponseSample]) -> ResponseSample:
        """The samples of several clients as one."""
        bundles = tuple(sorted({name for part in parts for name in part.bundles}))
        wrong, rejected = sum(part.wrong for part in parts), sum(part.rejected for part in parts)
        return cls(np.concatenate([part.steps_ms for part in parts]), wrong, bundles, rejected)

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50 and p99 of each step in milliseconds; empty if no response has timings."""
        if not len(self.steps_ms):
            return {}
        values = np.percentile(self.steps_ms, [50, 99], axis=0)
        return {step: {"p50_ms": float(values[0, n]), "p99_ms": float(values[1, n])} for n, step in enumerate(STEPS)}


def read_responses(method: MethodName, payloads: Sequence[bytes]) -> ResponseSample:
    """Decode responses. A ranking without items, an entry with an error and a vector of no length count as wrong."""
    if method == "encode":
        vectors = [EncodeResponse.FromString(payload) for payload in payloads]
        wrong = sum(len(vector.vectors) != 4 * vector.rows * vector.dimensions or not vector.rows for vector in vectors)
        return ResponseSample(np.zeros((0, len(STEPS)), np.float32), wrong, _bundles(vectors))
    is_batch = method == "batch"
    rankings = _entries(payloads) if is_batch else [RecommendResponse.FromString(payload) for payload in payloads]
    rejected = sum(len(rejected_entries(payload)) for payload in payloads) if is_batch else 0
    steps = [[getattr(ranking.timings, f"{step}_ms") for step in STEPS] for ranking in rankings if ranking.items]
    wrong = sum(not ranking.items for ranking in rankings) - rejected
    return ResponseSample(np.array(steps, np.float32).reshape(-1, len(STEPS)), wrong, _bundles(rankings), rejected)


def rejected_entries(payload: bytes) -> list[int]:
    """Positions of the entries of a BatchRecommendResponse that the server rejected because it was full."""
    results = BatchRecommendResponse.FromString(payload).results
    return [n for n, result in enumerate(results) if result.error.code == RESOURCE_EXHAUSTED]


def _entries(payloads: Sequence[bytes]) -> list[RecommendResponse]:
    """The rankings of batches; an entry with an error has one without items."""
    return [result.response for payload in payloads for result in BatchRecommendResponse.FromString(payload).results]


def _bundles(responses: Sequence[EncodeResponse] | Sequence[RecommendResponse]) -> tuple[str, ...]:
    return tuple(sorted({f"{response.bundle}/{response.version}" for response in responses if response.bundle}))
