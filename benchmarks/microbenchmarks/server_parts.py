"""Microseconds of the parts of the server measured alone, in this process, on the server's core."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.floor import TOP_K, FloorMeter
from swiftrec.benchmarks.item_texts import Items, TokenCounter, TokenTexts
from swiftrec.benchmarks.server_process import SERVER_CORE
from swiftrec.server.batching.request_queue import QueuedRequest, RequestQueue
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.domain import DEFAULT_PRIORITY, Filter, Recommendation, Strategy, Timings
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import Event, RecommendRequest
from swiftrec.server.worker.respond import to_response
from swiftrec.server.worker.validate import InputLimits, to_request

_LENGTHS, _BATCHES = (8, 16, 32, 64, 128), (1, 2, 4, 8, 16, 32)
_REQUESTS = 2_000


def measure_parts(meter: FloorMeter, bundle: Path, seconds: float, cells: int = len(_LENGTHS)) -> dict[str, Any]:
    """Measure each part for about `seconds`, also each cell of the session grid of `cells` lengths and batch sizes.

    Returns:
        Microseconds, by part: `tokeniser` (per text, by tokens), `session` (per batch, by length and batch), `queue`
        (per request), `index` (per search), `serialisation` (per request and reply).
    """
    with pinned(SERVER_CORE):
        return {
            "tokeniser": _tokeniser(meter, bundle, seconds),
            "session": _session(meter, seconds, cells),
            "queue": _queue(),
            "index": _index(meter, seconds),
            "serialisation": _serialisation(meter, bundle, seconds),
        }


def _us(work: Callable[[], object], seconds: float) -> float:
    """Microseconds of one run: the median over the runs of `seconds`."""
    work()
    durations: list[float] = []
    ends = time.perf_counter() + seconds
    while not durations or time.perf_counter() < ends:
        began = time.perf_counter()
        work()
        durations.append(time.perf_counter() - began)
    return 1e6 * float(np.median(durations))


def _tokeniser(meter: FloorMeter, bundle: Path, seconds: float) -> dict[str, float]:
    items, random = Items(bundle), np.random.default_rng(7)
    texts = TokenTexts(items, TokenCounter(items.folder))
    result = {}
    for length in _LENGTHS:
        rows = cycle([texts.draw(length, random)[0] for _ in range(100_000 // length)])
        result[str(length)] = _us(lambda rows=rows: meter.tokenizer.encode([next(rows)]), seconds)  # type: ignore[misc]
    return result


def _session(meter: FloorMeter, seconds: float, cells: int) -> dict[str, dict[str, float]]:
    return {
        str(length): {
            str(size): _us(lambda rows=[[7] * length] * size: meter.encoder.run(rows), seconds)  # type: ignore[misc]
            for size in _BATCHES[: cells + 1]
        }
        for length in _LENGTHS[:cells]
    }


def _queue() -> dict[str, float]:
    """CPU of queueing a request and scheduling it; one at a time, and all at once."""
    return {"one_by_one": _queue_us(1), "at_once": _queue_us(_REQUESTS)}


def _queue_us(burst: int) -> float:
    queue: RequestQueue[QueuedRequest] = RequestQueue(Limits().aging_s)
    began = time.process_time()
    for start in range(0, _REQUESTS, burst):
        for _ in range(start, min(start + burst, _REQUESTS)):
            queue.push(QueuedRequest(DEFAULT_PRIORITY))
        while queue.waiting.requests:
            queue.next_step(Limits(), 0.0)
    return 1e6 * (time.process_time() - began) / _REQUESTS


def _index(meter: FloorMeter, seconds: float) -> dict[str, float]:
    catalogue = meter.catalogue
    user = np.ones(catalogue.width, dtype=np.float32)
    everything = catalogue.resolve_filter(Filter(), ())
    return {
        "items": float(len(catalogue.items)),
        "mask": _us(lambda: catalogue.resolve_filter(Filter(), ()), seconds),
        "search_10": _us(lambda: catalogue.search(user, everything, 10), seconds),
        "search_100": _us(lambda: catalogue.search(user, everything, 100), seconds),
    }


def _serialisation(meter: FloorMeter, bundle: Path, seconds: float) -> dict[str, float]:
    items = Items(bundle)
    history = [Event(item_id=entry) for entry in items.ids[:20]]
    payload = RecommendRequest(history=history, query=items.texts[0]).SerializeToString()
    ranked = [(item, 1.0) for item in meter.catalogue.items[:TOP_K]]
    recommendation = Recommendation(ranked, [], Strategy.MODEL, 20, Timings())
    limits, response = InputLimits(), to_response(recommendation, "bundle", 1)
    return {
        "decode": _us(lambda: RecommendRequest.FromString(payload), seconds),
        "check": _us(lambda: to_request(RecommendRequest.FromString(payload), limits), seconds),
        "build": _us(lambda: to_response(recommendation, "bundle", 1), seconds),
        "encode": _us(response.SerializeToString, seconds),
    }
