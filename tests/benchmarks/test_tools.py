"""Tools for single questions: against, fair, overload and swaps."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from swiftrec import promise
from swiftrec.benchmarks import against, fair, overload, server_process, swaps
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.client import TIMEOUT_S, ResponseLog
from swiftrec.benchmarks.fair import costly_requests
from swiftrec.benchmarks.flood import flood
from swiftrec.benchmarks.overload import NO_ADMISSION, LoadStep, LoadTarget, running_null_server, step
from swiftrec.benchmarks.peers.rounds import our_command
from swiftrec.benchmarks.server_process import ServerProcess
from swiftrec.benchmarks.statistics import OK, RESOURCE_EXHAUSTED, RequestRows
from swiftrec.benchmarks.teacher import TeacherSettings, _commands
from swiftrec.benchmarks.workload import PATHS, MethodName, Requests
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    BatchRecommendRequest,
    RankedItem,
    RecommendRequest,
    RecommendResponse,
)
from swiftrec.server.settings_reader import read_settings
from tests.benchmarks.peers import scores, setup
from tests.conftest import ROOT

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the bundle and gives the JSON of its last line. A goal may be missed on a busy machine."""
    monkeypatch.setattr(server_process, "run_load_tool", partial(server_process.run_load_tool, may_limit=True))

    def run(*command: str) -> dict[str, Any]:
        code = main([command[0], "--bundle", str(bundle.folder), *command[1:]])
        said = capsys.readouterr()
        assert code in {0, 1}, said.err
        result: dict[str, Any] = json.loads(said.out.splitlines()[-1])
        assert not result.get("partial")
        return result | {"code": code}

    return run


def test_server_is_measured_beside_the_tree_of_another_commit(run: Run) -> None:
    flags = ["--tree", str(ROOT), "--repeats", "1", "--seconds", "0.5", "--warmup-s", "0.2", "--requests", "4000"]
    result = run("against", *flags, "--workload", "query", "--in-flight", "8")
    assert [pair["workload"] for pair in result["pairs"]] == ["query"]
    assert all(pair[whose]["server_us"] > 0 for pair in result["pairs"] for whose in ("ours", "theirs"))


def test_swaps_under_load_give_no_error_and_no_mixed_answer(run: Run) -> None:
    result = run("swaps", "--swaps", "3", "--in-flight", "4", "--requests", "16")
    assert (result["errors"], result["mixed"], result["code"]) == ({}, 0, 0)
    assert result["answers"] >= 4


def test_what_others_notice_of_costly_requests_is_measured(run: Run) -> None:
    result = run("fair", "--repeats", "1", "--seconds", "0.5", "--health-rate", "800", "--rate", "20")
    assert len({item["costly"] for item in result["measured"]}) == 3
    assert all(item[when]["others_ms"] > 0 for item in result["measured"] for when in ("alone", "beside"))
    assert all(item["costly_codes"].get("0") for item in result["measured"])  # a costly request is valid


def test_costly_requests_are_as_large_as_is_said(bundle: Bundle) -> None:
    lists, tops, filters = costly_requests(bundle.folder, 7).values()
    entries = BatchRecommendRequest.FromString(lists.payloads[0]).requests
    assert (len(entries), {len(entry.history) for entry in entries}) == (256, {20})
    assert sum(entry.top_k for entry in BatchRecommendRequest.FromString(tops.payloads[-1]).requests) == 20_000
    (condition,) = RecommendRequest.FromString(filters.payloads[0]).filter.any_of
    assert len({*condition.values}) == 600


def test_overload_of_a_served_bundle_counts_the_same_on_both_sides(run: Run) -> None:
    result = run("overload", "--variant", "static-int8", "--workload", "query", "--times", "2", "--seconds", "0.5")
    assert len(result["steps"]) == 1
    assert result["steps"][0] > 0
    assert result["counts"] == [{}]


_THEIRS = against.Turn(server_us=100.0, throughput=10.0, p50_ms=10.0, alone_ms=1.0)


@pytest.mark.parametrize(
    ("server_us", "alone_ms", "missed"),
    [
        (60.0, 0.9, []),
        (71.0, 0.9, ["CPU of mixed: 0.71, promised <= 0.7: MISSED"]),
        (60.0, 1.1, ["p50 of mixed with one in flight: 1.1, promised <= 1: MISSED"]),
    ],
)
def test_share_of_another_commit_is_held_against_its_goal(server_us: float, alone_ms: float, missed: list[str]) -> None:
    pair = against.Pair("mixed", _THEIRS, against.Turn(server_us, 20.0, 5.0, alone_ms))
    assert pair.ratios() == (server_us / 100, 0.5, alone_ms)
    assert promise.missed(against.goals("mixed", [pair], None)) == missed
    assert len(against.goals("words", [pair], None)) == 1  # CPU has no goal there
    assert against.goal_of("mixed", "bert3-int8") == 0.75
    assert against.goal_of("words", "static-int8") is None


_SCORES = (4.0, 3.0, 2.99995, 1.0)


def _answer(version: int, *ids: str) -> bytes:
    items = [RankedItem(item_id=item, score=score) for item, score in zip(ids, _SCORES, strict=False)]
    return RecommendResponse(version=version, items=items).SerializeToString()


def test_answer_with_the_items_of_another_version_is_mixed() -> None:
    even, odd = ([*zip(ids, _SCORES, strict=True)] for ids in ("abcd", "efgh"))
    ledger = swaps.ResponseChecker(({b"q": even}, {b"q": odd}))
    ledger.check(b"q", OK, _answer(4, *"abcd"))
    ledger.check(b"q", OK, _answer(5, *"efgh"))
    ledger.check(b"q", OK, _answer(5, *"egfh"))  # f and g are all but equal
    assert promise.missed(ledger.goals()) == []
    assert (ledger.answers, ledger.mixed, ledger.versions) == (3, 0, {4, 5})
    for ids in ("efgh", "ebcd", "abc"):
        ledger.check(b"q", OK, _answer(4, *ids))
    ledger.check(b"q", 14, b"gone")
    assert (ledger.mixed, dict(ledger.errors)) == (3, {14: 1})
    assert promise.missed(ledger.goals()) == [
        "responses with another status than OK: 1, promised <= 0: MISSED",
        "responses that mix two versions: 3, promised <= 0: MISSED",
    ]


def _beside(health_ms: float, others_ms: float, failed: list[int]) -> fair.BesideCostly:
    alone, beside = fair.Observed(1.0, 2.0, []), fair.Observed(health_ms, others_ms, failed)
    return fair.BesideCostly("a list", alone, beside, {"0": 1})


@pytest.mark.parametrize(
    ("pair", "missed"),
    [
        (_beside(2.9, 3.9, []), []),
        (_beside(3.5, 3.9, []), ["rise of the p99 of health checks, ms: 2.5, promised <= 2: MISSED"]),
        (_beside(2.9, 5.0, []), ["p50 of small requests / that alone: 2.5, promised <= 2: MISSED"]),
        (
            _beside(2.9, 3.9, [8]),
            ["status codes of health checks or small requests other than OK, [8]: 1, promised <= 0: MISSED"],
        ),
        (_beside(float("nan"), 3.9, []), ["rise of the p99 of health checks, ms: nan, promised <= 2: MISSED"]),
    ],
)
def test_what_others_notice_is_held_against_its_goal(pair: fair.BesideCostly, missed: list[str]) -> None:
    assert promise.missed(fair.goals("a list", [pair])) == [f"a list: {line}" for line in missed]


def _rows(*codes: int) -> RequestRows:
    times = np.arange(len(codes)) / 10.0
    ones = np.ones(len(codes), np.int32)
    return RequestRows(times, times, times + 0.01, np.array(codes, np.int32), ones, ones)


def test_overload_counts_a_window_and_names_what_was_not_kept() -> None:
    target = overload.LoadTarget(ServerProcess("there", None), Path("nowhere"), "query", 10.0, 500.0)
    kept = overload.judge(_rows(*[OK] * 10), target, 10.0, 0.0, 1.0, {})
    assert (kept.goodput, kept.sent, promise.missed(kept.goals())) == (1.0, 1.0, [])
    codes = [OK] * 5 + [RESOURCE_EXHAUSTED] * 4 + [1]
    lost = overload.judge(_rows(*codes), target, 10.0, 0.0, 1.0, {"CANCELLED": (1, 0)})
    assert promise.missed(lost.goals("query")) == [
        "10x query: goodput as a share of the capacity: 0.5, promised >= 0.95: MISSED",
        "10x query: other status codes, [1]: 1, promised <= 0: MISSED",
        "10x query: status codes with unequal counts, {'CANCELLED': 'client 1, server 0'}: 1, promised <= 0: MISSED",
    ]


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg] # its annotation is generic, the class is not
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


def _flooded(target: str, method: MethodName, payloads: list[bytes]) -> tuple[ResponseLog, RequestRows]:
    ones = np.ones(len(payloads), np.int32)
    log = ResponseLog(Requests(method, payloads, ones, ones))
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


_SECONDS, _WARMUP_S = 2.0, 0.5
_SHARE = 0.5  # of what an answer takes at most without admission, by when the queue has grown for two seconds


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[ServerProcess]:
    with running_null_server(bundle.folder) as running:
        yield running


@pytest.fixture(scope="module")
def below(server: ServerProcess, bundle: Bundle) -> LoadStep:
    """A load that the server can take."""
    return step(LoadTarget(server, bundle.folder), 0.9, _SECONDS, _WARMUP_S)


@pytest.fixture(scope="module")
def open_door(bundle: Bundle) -> LoadStep:
    """Three times the capacity without admission: what the others are compared with."""
    with running_null_server(bundle.folder, *NO_ADMISSION) as running:
        return step(LoadTarget(running, bundle.folder), 3.0, _SECONDS, _WARMUP_S)


@pytest.mark.parametrize("times", [2.0, 5.0, 10.0])
def test_overload_costs_neither_throughput_nor_latency(
    server: ServerProcess, bundle: Bundle, below: LoadStep, open_door: LoadStep, times: float
) -> None:
    """Ratios within this run; `swiftrec bench overload` has the bounds in milliseconds."""
    result = step(LoadTarget(server, bundle.folder), times, _SECONDS, _WARMUP_S)
    assert (result.others, result.counts) == ([], {})
    assert result.rejected > 0
    assert result.goodput > 0.8 * below.goodput
    assert result.accepted_ms < _SHARE * open_door.accepted_ms
    assert result.rejected_ms < result.accepted_ms


def test_load_below_capacity_is_answered_whole(below: LoadStep) -> None:
    assert (below.others, below.rejected) == ([], 0)


def test_server_is_normal_again_after_an_overload(server: ServerProcess, bundle: Bundle, open_door: LoadStep) -> None:
    step(LoadTarget(server, bundle.folder), 10.0, seconds=1.0, warmup_s=0.5)
    after = step(LoadTarget(server, bundle.folder), 0.5, _SECONDS, _WARMUP_S)
    assert (after.others, after.rejected) == ([], 0)
    assert after.accepted_ms < _SHARE * open_door.accepted_ms


def test_bounds_of_the_command_fail_without_admission(open_door: LoadStep) -> None:
    """Negative control of `goals`."""
    assert any("p99 of accepted" in line for line in promise.missed(open_door.goals()))


def _timeout_s(flags: list[str]) -> float:
    return read_settings(ServerSettings, flags).default_timeout_ms / 1e3


def test_our_server_among_the_peers_waits_as_long_as_the_client() -> None:
    assert _timeout_s(our_command(setup(scores()), 1)[3:]) == TIMEOUT_S


def test_our_server_does_the_job_of_the_others() -> None:
    command = our_command(setup(scores()), 1)
    assert command[command.index("--parts") + 1] == "ranker"


def test_student_and_teacher_wait_as_long_as_the_client() -> None:
    for command in _commands(TeacherSettings(_cli_parse_args=[])):
        assert _timeout_s(command[command.index("--bundle") :]) == TIMEOUT_S


def test_control_without_admission_refuses_nothing_for_its_deadline() -> None:
    assert _timeout_s(["--bundle", "x", *NO_ADMISSION]) >= TIMEOUT_S
