"""One size of the catalogue compared with the base: recall, time and memory, exact and with the index."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.catalogue.synthetic import KEEP, SHARES
from swiftrec.server.arrays import Positions, Vector
from swiftrec.server.catalogue.blend import ScoringInput
from swiftrec.server.catalogue.catalogue import IndexMode
from swiftrec.server.catalogue.sparse import AnyBoosts
from swiftrec.server.domain import AttributeValues, Filter, ItemEvent, Request
from swiftrec.server.errors import BundleError
from swiftrec.server.models.networks import (
    EncoderModel,
    EventKind,
    RankerModel,
    UserSequence,
    ranker_half,
    sentence_half,
)
from swiftrec.server.models.session import open_session
from swiftrec.server.pipeline.index_training import index_training_users
from swiftrec.server.pipeline.recommender import Recommender

_DEPTH, _TOP = 100, 10  # recall is measured at both; Recommend returns 10 items by default
SearchResults = list[tuple[list[str], float]]
"""For each user the ids of the best items, and milliseconds."""

_BOTH = "history and query"
_KINDS = ("history", "query", _BOTH)
WARMUP_USERS = 10  # users whose requests are sent twice, the first time without counting
_REQUESTS = {kind: (kind, Filter()) for kind in _KINDS} | {
    f"{_BOTH}, {share} %": (_BOTH, Filter(any_of=(AttributeValues(KEEP, (str(share),)),))) for share in SHARES
}
"""The kind of each request, and its filter."""


@dataclass(frozen=True, slots=True)
class SearchFigures:
    """Filter and search of one kind of request; recall of the exact search's best 100.

    `recall_10`: of the best ten, searched for ten. Items of the history are not excluded.
    """

    recall: float
    recall_10: float
    worst: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class RequestFigures:
    """Whole requests without gRPC, in one process, one at a time.

    `ratio`: in each round, their median divided by that of the same requests with 2,000 items.
    """

    p50_ms: float
    p99_ms: float
    base_p50_ms: float
    ratio: list[float]


@dataclass(frozen=True, slots=True)
class CatalogueRow:
    """One size and one index; `memory_mb` is what the bundle added to the process."""

    items: int
    index: IndexMode
    load_s: float
    build_s: float
    memory_mb: float
    index_mb: float
    search: dict[str, SearchFigures]
    whole: dict[str, RequestFigures]


class CatalogueComparison:
    """Compares one size with the base: exact search first, then with the index.

    Args:
        base: serves 2,000 items.
        engine: serves the measured catalogue.
        histories: for each of the two the item ids of each user.
        queries: one of each user.
        repeats: rounds of whole requests.
        exact_below: allowed items up to which a search is exact despite the index.
    """

    def __init__(
        self,
        base: Recommender,
        engine: Recommender,
        histories: Sequence[Sequence[Sequence[str]]],
        queries: Sequence[str],
        repeats: int,
        exact_below: int,
    ) -> None:
        self._repeats, self._exact_below = repeats, exact_below
        self._engines, self._histories, self._queries = (base, engine), histories, queries
        self._catalogue, self._scoring, manifest = engine.catalogue, engine.scoring, engine.bundle.manifest
        self._ranker = RankerModel(open_session(engine.bundle.folder / "ranker.onnx"), manifest.dimensions)
        self._max_history = manifest.max_history
        self._encoder = EncoderModel(open_session(engine.bundle.encoder("cpu", None)))
        users = [(self._events(ids), query) for ids, query in zip(histories[1], queries, strict=True) if ids]
        nothing = np.empty(0, dtype=np.int64)
        self._users = {
            "history": [self._user(events, "") for events, _ in users],
            "query": [self._user(nothing, query) for _, query in users],
            _BOTH: [self._user(events, query) for events, query in users],
        }

    def rows(self, load_s: float, before_mb: float) -> list[CatalogueRow]:
        """A row for the exact search and one for the index.

        Raises:
            BundleError: the catalogue is too small for an index.
        """
        items, rows = len(self._catalogue.items), []
        truth = self._search_all(_DEPTH)
        top = {name: [(ids[:_TOP], duration_ms) for ids, duration_ms in results] for name, results in truth.items()}
        approximate, approximate_top, build_s, index_mb = truth, top, 0.0, 0.0
        for mode in ("exact", "approximate"):
            if mode == "approximate":
                started = time.monotonic()
                index = self._catalogue.index(mode, self._sample, exact_below=self._exact_below)
                if index is None:
                    raise BundleError(f"{items} items are too few for an index: give larger --items")
                build_s, index_mb = time.monotonic() - started, index.size_bytes / 2**20
                approximate, approximate_top = self._search_all(_DEPTH), self._search_all(_TOP)
            search = {
                name: _search_figures(approximate[name], truth[name], _recalls(approximate_top[name], top[name]))
                for name in _REQUESTS
            }
            memory_mb = resident_mb() - before_mb
            rows.append(CatalogueRow(items, mode, load_s, build_s, memory_mb, index_mb, search, self._time_requests()))
        return rows

    def _search_all(self, depth: int) -> dict[str, SearchResults]:
        """The results for each kind of request."""
        return {
            name: self._search(self._users[kind], conditions, depth) for name, (kind, conditions) in _REQUESTS.items()
        }

    def _search(self, users: Sequence[tuple[Vector, AnyBoosts]], conditions: Filter, depth: int) -> SearchResults:
        """The best ids for each user, and the milliseconds of filter and search."""
        results = []
        for user, boosts in (*users[:WARMUP_USERS], *users):
            started = time.perf_counter()
            ranked = self._catalogue.search(user, self._catalogue.resolve_filter(conditions, ()), depth, boosts)
            results.append(([item.id for item, _ in ranked], 1e3 * (time.perf_counter() - started)))
        return results[WARMUP_USERS:]

    def _time_requests(self) -> dict[str, RequestFigures]:
        return {name: self._request_figures(*_REQUESTS[name]) for name in (*_KINDS, f"{_BOTH}, 10 %")}

    def _request_figures(self, kind: str, conditions: Filter) -> RequestFigures:
        rounds = [self._round(kind, conditions) for _ in range(self._repeats)]
        base_ms, large_ms = (np.concatenate(times) for times in zip(*rounds, strict=True))
        ratio = [float(np.median(large) / np.median(base)) for base, large in rounds]
        return RequestFigures(
            float(np.median(large_ms)), float(np.percentile(large_ms, 99)), float(np.median(base_ms)), ratio
        )

    def _round(self, kind: str, conditions: Filter) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Milliseconds of each request, with the base and with the measured catalogue."""
        durations: tuple[list[float], list[float]] = ([], [])
        for number, query in enumerate(self._queries):
            for engine, histories, times in zip(self._engines, self._histories, durations, strict=True):
                events = () if kind == "query" else tuple(map(ItemEvent, histories[number]))
                request = Request(history=events, query="" if kind == "history" else query, conditions=conditions)
                started = time.perf_counter()
                engine.recommend([request])
                times.append(1e3 * (time.perf_counter() - started))
        return np.array(durations[0][WARMUP_USERS:]), np.array(durations[1][WARMUP_USERS:])

    def _sample(self) -> NDArray[np.float32]:
        return index_training_users(self._ranker, self._encode, self._catalogue, self._scoring, self._max_history)

    def _encode(self, texts: list[str]) -> list[Vector]:
        return self._encoder.run(self._engines[1].tokenizer.encode(texts))

    def _events(self, ids: Sequence[str]) -> Positions:
        """The items of a history that the ranker reads."""
        positions = [position for item_id in ids if (position := self._catalogue.position(item_id)) is not None]
        return np.array(positions[-self._max_history :], dtype=np.int64)

    def _user(self, items: Positions, query: str) -> tuple[Vector, AnyBoosts]:
        """The vector that items are compared with for this history and query, and the boosts that are added."""
        vectors = [self._catalogue.event_vector(position) for position in items.tolist()]
        kinds, sentences = [EventKind.ITEM] * len(vectors), self._catalogue.sentences[items]
        scoring_input = ScoringInput(len(items), items, sentences)
        if query:
            vector = self._encode([query])[0]
            vectors.append(ranker_half(vector, self._catalogue.dimensions))
            kinds.append(EventKind.QUERY)
            sentence = sentence_half(vector, self._catalogue.dimensions)
            scoring_input = replace(scoring_input, query=query, query_sentence=sentence)
        user, terms = self._ranker.run([UserSequence(vectors, kinds)])[0], self._scoring.request_terms(scoring_input)
        return terms.at(user), terms.boosts


def _recalls(results: SearchResults, truth: SearchResults) -> list[float]:
    """The recall of each user."""
    return [len({*ids} & {*best}) / max(1, len(best)) for (ids, _), (best, _) in zip(results, truth, strict=True)]


def _search_figures(results: SearchResults, truth: SearchResults, top_recalls: Sequence[float]) -> SearchFigures:
    recalls, times = _recalls(results, truth), [duration_ms for _, duration_ms in results]
    p50, p99 = np.percentile(times, [50, 99])
    return SearchFigures(float(np.mean(recalls)), float(np.mean(top_recalls)), min(recalls), float(p50), float(p99))


def resident_mb() -> float:
    """Resident memory of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 2**10
