"""`swiftrec bench fair`: what other clients notice while one client sends the costliest valid requests in a loop.

Health checks and small recommendations are sent at a fixed rate, alone and beside each kind of costly request, in turn
within one run. The costly requests are as large as the server's default limits allow.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.client import ANY_SIZE, ClosedLoop, ResponseLog, SendRequest, arrivals, open_loop, unary
from swiftrec.benchmarks.connection import wait_ready
from swiftrec.benchmarks.environment import pinned
from swiftrec.benchmarks.item_texts import Items, mixed_texts
from swiftrec.benchmarks.optional_deps import collect_until_error
from swiftrec.benchmarks.server_process import ServerProcess, extra_flags, load_cores, running_server
from swiftrec.benchmarks.statistics import OK, p99_of
from swiftrec.benchmarks.workload import PATHS, MethodName, Requests, make
from swiftrec.promise import Promise
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    AttributeValues,
    BatchRecommendRequest,
    Event,
    Filter,
    RecommendRequest,
)

_MAX_HEALTH_RISE_MS, _MAX_OTHERS_RATIO = 2.0, 2.0
_HEALTH = "/grpc.health.v1.Health/Check"
_ENTRIES, _TEXTS, _LARGE_ENTRIES, _TOP_K, _VALUES = 256, 20, 20, 1_000, 600
_DIFFERENT = 4  # requests of each kind, repeated
_FILTERS = 1_000  # more than the server caches
_LEAD_S = 0.2
_HEAD = [
    "in a loop", "health p99 alone", "beside", "higher by ms", "others p50 alone", "beside", "ratio",
    "costly ones by status",
]  # fmt: skip


class FairSettings(BaseSettings):
    """Measure how expensive requests slow down health checks and small requests.

    Use it after a change of batching or admission. Goals: the p99 of health checks rises by at most 2 ms, and the p50
    of small requests at most doubles. Prints a row for each kind of costly request; exit code 1 if a goal
    is missed.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench fair", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder; the bundle's default if not given")
    repeats: int = Field(3, ge=1, description="number of rounds over the expensive requests")
    seconds: float = Field(5.0, gt=0, description="length of each measurement")
    rate: float = Field(50.0, gt=0, description="small requests per second, of the workload mixed")
    health_rate: float = Field(100.0, gt=0, description="health checks per second")
    seed: int = Field(7, description="random seed of requests and arrivals")


@dataclass(frozen=True, slots=True)
class Observed:
    """Milliseconds of health checks (p99) and of small requests (p50), and their status codes other than OK."""

    health_ms: float
    others_ms: float
    failed: list[int]


@dataclass(frozen=True, slots=True)
class BesideCostly:
    """A measurement beside one kind of costly request, the one alone before it, and the costly ones by status code."""

    costly: str
    alone: Observed
    beside: Observed
    costly_codes: dict[str, int]

    @property
    def health_rise_ms(self) -> float:
        """How much higher the p99 of health checks is."""
        return self.beside.health_ms - self.alone.health_ms

    @property
    def others_ratio(self) -> float:
        """The p50 of small requests, divided by that alone."""
        return self.beside.others_ms / self.alone.others_ms


def run(settings: FairSettings) -> int:
    """Measure and print the table; 1 if a goal is missed or it ended early."""
    measured, reason = collect_until_error(_measurements(settings))
    by_kind = {
        name: [pair for pair in measured if pair.costly == name] for name in dict.fromkeys(p.costly for p in measured)
    }
    table = formatting.table(_HEAD, [_row(name, pairs) for name, pairs in by_kind.items()])
    judged = [goal for name, pairs in by_kind.items() for goal in goals(name, pairs)]
    return formatting.finish_judged("fair", table, {"measured": [asdict(pair) for pair in measured]}, judged, reason)


def costly_requests(bundle: Path, seed: int) -> dict[str, Requests]:
    """The largest requests of each kind that the server's default limits allow."""
    items = Items(bundle)
    number = _DIFFERENT * _ENTRIES
    texts = iter(mixed_texts(items.texts, number * _TEXTS, seed))
    entries = [RecommendRequest(history=[Event(text=next(texts)) for _ in range(_TEXTS)]) for _ in range(number)]
    queries = mixed_texts(items.texts, _DIFFERENT * _LARGE_ENTRIES, seed + 1)
    large = [RecommendRequest(query=query, top_k=_TOP_K) for query in queries]
    return {
        f"batch of {_ENTRIES} x {_TEXTS} texts": _batches(entries, _ENTRIES),
        f"batch of {_LARGE_ENTRIES} x top_k {_TOP_K:,}": _batches(large, _LARGE_ENTRIES),
        f"filter of {_VALUES} values": _filters(items),
    }


def _batches(entries: Sequence[RecommendRequest], size: int) -> Requests:
    batches = [BatchRecommendRequest(requests=entries[start : start + size]) for start in range(0, len(entries), size)]
    return _requests("batch", [batch.SerializeToString() for batch in batches])


def _filters(items: Items) -> Requests:
    """Different filters with the same number of values, some of which the catalogue has."""
    name, values = max(items.attributes.items(), key=lambda attribute: len({*attribute[1]}))
    known = sorted({*values})
    filters = [
        Filter(any_of=[AttributeValues(name=name, values=[*known, *(f"{n} {v}" for v in range(_VALUES))][:_VALUES])])
        for n in range(_FILTERS)
    ]
    return _requests("recommend", [RecommendRequest(filter=conditions).SerializeToString() for conditions in filters])


def _requests(method: MethodName, payloads: list[bytes]) -> Requests:
    ones = np.ones(len(payloads), np.int32)
    return Requests(method, payloads, ones, ones)


def _measurements(settings: FairSettings) -> Iterator[BesideCostly]:
    flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0"]
    flags += extra_flags(settings.variant, "", has_cache=False)
    costly = costly_requests(settings.bundle, settings.seed)
    with running_server(["-m", "swiftrec.server", *flags]) as server, pinned(load_cores()):
        _observe(server, settings, 0)  # the first calls of a server are slower
        for number in range(settings.repeats):
            for name, requests in costly.items():
                alone = _observe(server, settings, number)
                with _client(server, PATHS[requests.method]) as send:
                    loop = ClosedLoop(send, ResponseLog(requests, len(requests) + 1), 1, cycle=True)
                    loop.start()
                    beside = _observe(server, settings, number)
                    loop.stop()
                    rows = loop.wait()
                yield BesideCostly(name, alone, beside, rows.codes())
                server.check()


def _observe(server: ServerProcess, settings: FairSettings, number: int) -> Observed:
    """Send health checks and small requests at their rates, each over a separate connection."""
    seed = settings.seed + number
    due = arrivals(settings.rate, settings.seconds, seed)
    checks_due = arrivals(settings.health_rate, settings.seconds, seed + 1)
    others = ResponseLog(make("mixed", settings.bundle, max(1, len(due)), seed), len(due) + 1)
    checks = ResponseLog(_requests("recommend", [b""] * len(checks_due)), len(checks_due) + 1)
    with _client(server, PATHS["recommend"]) as send, _client(server, _HEALTH) as check, ThreadPoolExecutor(1) as pool:
        start = time.monotonic() + _LEAD_S
        checking = pool.submit(open_loop, check, checks, checks_due, start)
        rows = open_loop(send, others, due, start)
        health_rows = checking.result()
    failed = sorted({*rows.code.tolist(), *health_rows.code.tolist()} - {OK})
    return Observed(p99_of(health_rows.latency_ms()), float(np.median(rows.latency_ms())), failed)


@contextmanager
def _client(server: ServerProcess, method: str) -> Iterator[SendRequest]:
    """A client with a separate connection: by default gRPC's channels share one."""
    options = [ANY_SIZE, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(server.address, options) as channel:
        wait_ready(channel, server.address)
        yield unary(channel, method)


def goals(name: str, pairs: Sequence[BesideCostly]) -> list[Promise]:
    """The goals beside one kind of costly request."""
    rises, ratios = [pair.health_rise_ms for pair in pairs], [pair.others_ratio for pair in pairs]
    failed = sorted({code for pair in pairs for code in (*pair.alone.failed, *pair.beside.failed)})
    return [
        Promise(f"{name}: rise of the p99 of health checks, ms", _MAX_HEALTH_RISE_MS, rises, at_most=True),
        Promise(f"{name}: p50 of small requests / that alone", _MAX_OTHERS_RATIO, ratios, at_most=True),
        Promise(
            f"{name}: status codes of health checks or small requests other than OK, {failed}",
            0,
            [len(failed)],
            at_most=True,
        ),
    ]


def _row(name: str, pairs: Sequence[BesideCostly]) -> list[str]:
    """Cells of one kind of costly request."""
    fields = [(field, when) for field in ("health_ms", "others_ms") for when in ("alone", "beside")]
    observed = [formatting.spread([getattr(getattr(pair, when), field) for pair in pairs], 2) for field, when in fields]
    rises = formatting.spread([pair.health_rise_ms for pair in pairs], 2)
    ratios = formatting.spread([pair.others_ratio for pair in pairs], 2)
    codes = str(dict(sum((Counter(pair.costly_codes) for pair in pairs), Counter())))
    return [name, *observed[:2], rises, *observed[2:], ratios, codes]
