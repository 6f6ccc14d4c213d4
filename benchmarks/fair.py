"""`swiftrec bench fair`: what everybody else notices while one client sends the dearest valid requests in a loop.

Health checks and small recommendations come at a fixed rate, alone and beside each of the dear requests, in turn within
one run. The dear requests are as large as the server's default limits allow.
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

from swiftrec.benchmarks import report
from swiftrec.benchmarks.client import ANY_SIZE, ClosedLoop, Log, Send, arrivals, open_loop, unary
from swiftrec.benchmarks.extra import gathered
from swiftrec.benchmarks.first import wait_ready
from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.process import Served, load_cores, more_flags, serving
from swiftrec.benchmarks.summary import OK, p99_of
from swiftrec.benchmarks.texts import Items, mixed_texts
from swiftrec.benchmarks.workload import PATHS, Asked, Method, make
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    AttributeValues,
    BatchRecommendRequest,
    Event,
    Filter,
    RecommendRequest,
)

_HEALTH_GOAL_MS, _OTHERS_GOAL = 2.0, 2.0
_HEALTH = "/grpc.health.v1.Health/Check"
_ENTRIES, _TEXTS, _TOPS, _TOP_K, _VALUES = 256, 20, 20, 1_000, 600
_DEAR = 4  # different requests of each kind, sent again and again
_FILTERS = 1_000  # more than the server keeps the masks of
_LEAD_S = 0.2
_FIGURES = [(what, when) for what in ("health_ms", "others_ms") for when in ("alone", "beside")]


class FairSettings(BaseSettings):
    """Health and small requests beside the dearest one in a loop; goals: health's p99 +2 ms, the others' p50 x2."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench fair", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder; the bundle's default if not given")
    repeats: int = Field(3, ge=1, description="rounds over the dear requests")
    seconds: float = Field(5.0, gt=0, description="length of each measurement")
    rate: float = Field(50.0, gt=0, description="small recommendations a second, of the workload mixed")
    health_rate: float = Field(100.0, gt=0, description="health checks a second")
    seed: int = Field(7, description="of requests and arrivals")


@dataclass(frozen=True, slots=True)
class Noticed:
    """Milliseconds of health checks (p99) and of the others (p50); status codes other than OK of either."""

    health_ms: float
    others_ms: float
    failed: list[int]


@dataclass(frozen=True, slots=True)
class Beside:
    """One measurement beside a dear request, and the one alone before it; what the dear ones ended with, by status."""

    dear: str
    alone: Noticed
    beside: Noticed
    dear_codes: dict[str, int]

    @property
    def health_rise_ms(self) -> float:
        """By how much health's p99 is higher."""
        return self.beside.health_ms - self.alone.health_ms

    @property
    def others_ratio(self) -> float:
        """The others' p50 by that alone."""
        return self.beside.others_ms / self.alone.others_ms


def run(settings: FairSettings) -> int:
    """Measure and write the table; 1 if a goal is missed or it ended early."""
    found, reason = gathered(_measurements(settings))
    names = list(dict.fromkeys(one.dear for one in found))
    rows, missed = [], []
    for name in names:
        cells, misses = row(name, [one for one in found if one.dear == name])
        rows.append(cells)
        missed += misses
    head = [
        "in a loop",
        "health p99 alone",
        "beside",
        "higher by ms",
        "others p50 alone",
        "beside",
        "ratio",
        "dear ones by status",
    ]
    verdict = f"missed: {'; '.join(missed)}" if missed else "every goal is met"
    figures = {"measured": [asdict(one) for one in found], "missed": missed}
    code = report.ended("fair", f"{report.table(head, rows)}\n{verdict}", figures, reason)
    return code or int(bool(missed))


def dear_requests(bundle: Path, seed: int) -> dict[str, Asked]:
    """The largest requests of each kind that the server's default limits allow."""
    items = Items(bundle)
    texts = iter(mixed_texts(items.texts, _DEAR * _ENTRIES * _TEXTS, seed))
    entries = [
        RecommendRequest(history=[Event(text=next(texts)) for _ in range(_TEXTS)]) for _ in range(_DEAR * _ENTRIES)
    ]
    tops = [RecommendRequest(query=text, top_k=_TOP_K) for text in mixed_texts(items.texts, _DEAR * _TOPS, seed + 1)]
    return {
        f"list of {_ENTRIES} x {_TEXTS} texts": _lists(entries, _ENTRIES),
        f"list of {_TOPS} x top_k {_TOP_K:,}": _lists(tops, _TOPS),
        f"filter of {_VALUES} values": _filters(items),
    }


def _lists(entries: Sequence[RecommendRequest], size: int) -> Asked:
    lists = [BatchRecommendRequest(requests=entries[start : start + size]) for start in range(0, len(entries), size)]
    return _asked("batch", [one.SerializeToString() for one in lists])


def _filters(items: Items) -> Asked:
    """Conditions of as many values, of which the catalogue has some, no two requests the same."""
    name, values = max(items.attributes.items(), key=lambda one: len({*one[1]}))
    known = sorted({*values})
    made = [
        Filter(any_of=[AttributeValues(name=name, values=[*known, *(f"{n} {v}" for v in range(_VALUES))][:_VALUES])])
        for n in range(_FILTERS)
    ]
    return _asked("recommend", [RecommendRequest(filter=one).SerializeToString() for one in made])


def _asked(method: Method, payloads: list[bytes]) -> Asked:
    ones = np.ones(len(payloads), np.int32)
    return Asked(method, payloads, ones, ones)


def _measurements(settings: FairSettings) -> Iterator[Beside]:
    flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0"]
    flags += more_flags(settings.variant, "", has_cache=False)
    dear = dear_requests(settings.bundle, settings.seed)
    with serving(["-m", "swiftrec.server", *flags]) as served, pinned(load_cores()):
        _noticed(served, settings, 0)  # the first calls of a server are slower
        for number in range(settings.repeats):
            for name, asked in dear.items():
                alone = _noticed(served, settings, number)
                with _client(served, PATHS[asked.method]) as send:
                    log = Log(asked, len(asked) + 1)
                    loop = ClosedLoop(send, log, 1, cycle=True)
                    loop.start()
                    beside = _noticed(served, settings, number)
                    loop.stop()
                    answers = loop.rows()
                yield Beside(name, alone, beside, answers.codes())
                served.check()


def _noticed(served: Served, settings: FairSettings, number: int) -> Noticed:
    """Send health checks and small requests at their rates, each over a separate connection."""
    seed = settings.seed + number
    due = arrivals(settings.rate, settings.seconds, seed)
    checks = arrivals(settings.health_rate, settings.seconds, seed + 1)
    others, health = make("mixed", settings.bundle, max(1, len(due)), seed), _asked("recommend", [b""] * len(checks))
    with _client(served, PATHS["recommend"]) as send, _client(served, _HEALTH) as check, ThreadPoolExecutor(1) as pool:
        start = time.monotonic() + _LEAD_S
        checked = pool.submit(open_loop, check, Log(health, len(health) + 1), checks, start)
        rows = open_loop(send, Log(others, len(others) + 1), due, start)
        health_rows = checked.result()
    failed = sorted({*rows.code.tolist(), *health_rows.code.tolist()} - {OK})
    return Noticed(p99_of(health_rows.latency_ms()), float(np.median(rows.latency_ms())), failed)


@contextmanager
def _client(served: Served, method: str) -> Iterator[Send]:
    """A client with a separate connection: by default gRPC's channels share one."""
    options = [ANY_SIZE, ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(served.address, options) as channel:
        wait_ready(channel, served.address)
        yield unary(channel, method)


def row(name: str, found: Sequence[Beside]) -> tuple[list[str], list[str]]:
    """Cells of a dear request, and which goals are missed in the median."""
    rises, ratios = [one.health_rise_ms for one in found], [one.others_ratio for one in found]
    noticed = [report.spread([getattr(getattr(one, when), what) for one in found], 2) for what, when in _FIGURES]
    codes = sum((Counter(one.dear_codes) for one in found), Counter())
    cells = [name, *noticed[:2], report.spread(rises, 2), *noticed[2:], report.spread(ratios, 2), str(dict(codes))]
    missed = []
    if not float(np.median(rises)) <= _HEALTH_GOAL_MS:
        missed.append(f"{name}: health's p99 {np.median(rises):.1f} ms higher, goal {_HEALTH_GOAL_MS:g}")
    if not float(np.median(ratios)) <= _OTHERS_GOAL:
        missed.append(f"{name}: the others' p50 {np.median(ratios):.1f} times that alone, goal {_OTHERS_GOAL:g}")
    if failed := sorted({code for one in found for code in (*one.alone.failed, *one.beside.failed)}):
        missed.append(f"{name}: status codes {failed} of health or the others")
    return cells, missed
