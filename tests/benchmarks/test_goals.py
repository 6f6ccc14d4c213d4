"""The commands that print a promised figure: what they send, what they find wrong, and when a goal is missed."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from swiftrec.benchmarks import against, fair, overload, swaps
from swiftrec.benchmarks.client import Log
from swiftrec.benchmarks.flood import flood
from swiftrec.benchmarks.process import Served
from swiftrec.benchmarks.summary import OK, RESOURCE_EXHAUSTED, Rows
from swiftrec.benchmarks.workload import PATHS, Asked, Method
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RankedItem, RecommendResponse

_THEIRS = against.Turn(server_us=100.0, throughput=10.0, p50_ms=10.0, alone_ms=1.0)


@pytest.mark.parametrize(
    ("server_us", "alone_ms", "missed"),
    [
        (60.0, 0.9, []),
        (71.0, 0.9, ["CPU of mixed 0.710, goal 0.7"]),
        (60.0, 1.1, ["p50 of mixed with one in flight 1.100, goal 1.0"]),
    ],
)
def test_share_of_another_commit_is_held_against_its_goal(server_us: float, alone_ms: float, missed: list[str]) -> None:
    pair = against.Pair("mixed", _THEIRS, against.Turn(server_us, 20.0, 5.0, alone_ms))
    assert pair.ratios() == (server_us / 100, 0.5, alone_ms)
    assert against.row("mixed", [pair], None)[1] == missed
    assert against.goal_of("mixed", "bert3-int8") == 0.75
    assert against.goal_of("words", "static-int8") is None


_SCORES = (4.0, 3.0, 2.99995, 1.0)


def _answer(version: int, *ids: str) -> bytes:
    items = [RankedItem(item_id=one, score=score) for one, score in zip(ids, _SCORES, strict=False)]
    return RecommendResponse(version=version, items=items).SerializeToString()


def test_answer_with_the_items_of_another_version_is_mixed() -> None:
    even, odd = ([*zip(ids, _SCORES, strict=True)] for ids in ("abcd", "efgh"))
    ledger = swaps.Ledger(({b"q": even}, {b"q": odd}))
    ledger.note(b"q", OK, _answer(4, *"abcd"))
    ledger.note(b"q", OK, _answer(5, *"efgh"))
    ledger.note(b"q", OK, _answer(5, *"egfh"))  # f and g are all but equal
    assert (ledger.answers, ledger.mixed, ledger.versions) == (3, 0, {4, 5})
    for ids in ("efgh", "ebcd", "abc"):
        ledger.note(b"q", OK, _answer(4, *ids))
    ledger.note(b"q", 14, b"gone")
    assert (ledger.mixed, dict(ledger.errors)) == (3, {14: 1})


def _beside(health_ms: float, others_ms: float, failed: list[int]) -> fair.Beside:
    alone, beside = fair.Noticed(1.0, 2.0, []), fair.Noticed(health_ms, others_ms, failed)
    return fair.Beside("a list", alone, beside, {"0": 1})


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (_beside(2.9, 3.9, []), []),
        (_beside(3.5, 3.9, []), ["a list: health's p99 2.5 ms higher, goal 2"]),
        (_beside(2.9, 5.0, []), ["a list: the others' p50 2.5 times that alone, goal 2"]),
        (_beside(2.9, 3.9, [8]), ["a list: status codes [8] of health or the others"]),
        (_beside(float("nan"), 3.9, []), ["a list: health's p99 nan ms higher, goal 2"]),
    ],
)
def test_what_others_notice_is_held_against_its_goal(found: fair.Beside, missed: list[str]) -> None:
    assert fair.row("a list", [found])[1] == missed


def _rows(*codes: int) -> Rows:
    times = np.arange(len(codes)) / 10.0
    ones = np.ones(len(codes), np.int32)
    return Rows(times, times, times + 0.01, np.array(codes, np.int32), ones, ones)


def test_overload_counts_a_window_and_names_what_was_not_kept() -> None:
    target = overload.Target(Served("there", None), Path("nowhere"), "query", 10.0, 500.0)
    kept = overload.judge(_rows(*[OK] * 10), target, 10.0, 0.0, 1.0, {})
    assert (kept.goodput, kept.sent, kept.faults()) == (1.0, 1.0, [])
    codes = [OK] * 5 + [RESOURCE_EXHAUSTED] * 4 + [1]
    lost = overload.judge(_rows(*codes), target, 10.0, 0.0, 1.0, {"CANCELLED": (1, 0)})
    assert lost.faults() == [
        "goodput 0.500 of the capacity, at least 0.95",
        "status codes [1]",
        "CANCELLED: the client has 1, the server 0",
    ]


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg] # the stub is generic, the class is not
    """Answers with the request; refuses an empty one."""

    def service(self, details: Any) -> grpc.RpcMethodHandler[bytes, bytes] | None:  # noqa: ANN401 (gRPC's type is not public)
        return grpc.unary_unary_rpc_method_handler(self._answer) if details.method == PATHS["recommend"] else None

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if not request:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "nothing was asked")
        return request


@contextmanager
def _serving() -> Iterator[str]:
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=[("grpc.max_concurrent_streams", 3)])
        server.add_generic_rpc_handlers((_Echo(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()


def _flooded(target: str, method: Method, payloads: list[bytes]) -> tuple[Log, Rows]:
    ones = np.ones(len(payloads), np.int32)
    log = Log(Asked(method, payloads, ones, ones))
    return log, flood(target, log, np.zeros(len(payloads)), time.monotonic())


def test_written_frames_are_calls_whose_answers_and_statuses_come_back() -> None:
    """More calls than a connection may have at once, and messages larger than a frame and than all windows together."""
    payloads = [b"", *(bytes([n]) * size for n in range(1, 4) for size in (10, 20_000, 60_000) for _ in range(200))]
    with _serving() as target:
        log, rows = _flooded(target, "recommend", payloads)
        assert rows.codes() == {"0": len(payloads) - 1, "8": 1}
        assert {number: reply for *_, code, number, reply in log.rows if code == OK} == dict(enumerate(payloads[1:], 1))
        assert _flooded(target, "encode", [b"x"])[1].codes() == {"12": 1}  # UNIMPLEMENTED


def test_flood_says_that_the_server_closed_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: server.accept()[0].close())
        with pytest.raises((RuntimeError, ConnectionError), match=r"closed a connection|reset|Broken pipe"):
            _flooded(f"127.0.0.1:{server.getsockname()[1]}", "recommend", [b"x"])
