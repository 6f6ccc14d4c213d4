"""Load loops, the rows that they collect, and the figures of a window."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import load as load_tool
from swiftrec.benchmarks import server_process
from swiftrec.benchmarks.client import ClosedLoop, OnResponse, ResponseLog, arrivals, connected, open_loop
from swiftrec.benchmarks.echo import response
from swiftrec.benchmarks.environment import CpuReading, cpu_seconds, pinned
from swiftrec.benchmarks.item_texts import MAX_WORDS, MIN_WORDS, mixed_texts
from swiftrec.benchmarks.null_server import NullSession
from swiftrec.benchmarks.responses import STEPS, read_responses
from swiftrec.benchmarks.server_process import ServerProcess, running_server
from swiftrec.benchmarks.statistics import RequestRows, summarise
from swiftrec.benchmarks.window import Window, merge_windows, window_figures
from swiftrec.benchmarks.workload import PATHS, Requests
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest

_SOURCES = [f"title{n} ({1900 + n}). drama, comedy" for n in range(200)]


def rows(latencies_s: list[float], codes: list[int], late_s: float = 0.0) -> RequestRows:
    intended = np.arange(len(codes), dtype=np.float64)
    done, tokens = intended + np.asarray(latencies_s), np.full(len(codes), 10, dtype=np.int32)
    return RequestRows(
        intended, intended + late_s, done, np.asarray(codes, dtype=np.int32), tokens, np.ones_like(tokens)
    )


def asked(payloads: list[bytes]) -> Requests:
    ones = np.ones(len(payloads), dtype=np.int32)
    return Requests("encode", payloads, ones, ones)


@pytest.fixture(scope="module", params=["threads", "aio"])
def echo(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with running_server(["-m", "swiftrec.benchmarks", "echo", "--front", request.param], core=None) as served:
        yield served


def test_percentiles_are_exact_on_known_rows() -> None:
    summary = summarise(rows([n / 1e3 for n in range(1_001)], [0] * 1_001), seconds=10.0, slo_ms=99.5)
    few = summarise(rows([n / 1e3 for n in range(999)], [0] * 999), seconds=10.0, slo_ms=99.5)
    assert np.isnan(few.p999_ms), "it would be the slowest of them"
    assert few.p99_ms == pytest.approx(988.02)
    assert (summary.p50_ms, summary.p95_ms, summary.p99_ms, summary.p999_ms) == pytest.approx((500, 950, 990, 999))
    assert summary.throughput == pytest.approx(100.1)
    assert summary.goodput == pytest.approx(10.0)


def test_failed_requests_count_neither_as_throughput_nor_as_latency() -> None:
    summary = summarise(rows([0.001, 9.0, 0.003], [0, 8, 0]), seconds=1.0, slo_ms=2.0)
    assert (summary.requests, summary.failed, summary.throughput, summary.goodput) == (3, 1, 2.0, 1.0)
    assert summary.p50_ms == pytest.approx(2.0)


def test_a_late_sender_is_seen_and_its_delay_is_latency() -> None:
    summary = summarise(rows([0.005] * 4, [0] * 4, late_s=0.004), seconds=1.0, slo_ms=100.0)
    assert summary.late_ms == pytest.approx(4.0)
    assert summary.p50_ms == pytest.approx(5.0)


def test_no_rows_give_no_latency() -> None:
    assert np.isnan(summarise(rows([], []), seconds=1.0, slo_ms=1.0).p50_ms)


def test_rows_survive_a_file_and_are_cut_by_time(tmp_path: Path) -> None:
    rows([0.5] * 10, [0] * 10).save(tmp_path / "rows.npz")
    loaded = RequestRows.load(tmp_path / "rows.npz")
    assert len(loaded) == 10
    assert loaded.within(2.5, 5.5).done.tolist() == [2.5, 3.5, 4.5]


def test_workload_is_the_same_for_a_seed_and_begins_the_same_when_longer() -> None:
    assert mixed_texts(_SOURCES, 500, seed=3) == mixed_texts(_SOURCES, 900, seed=3)[:500]
    assert mixed_texts(_SOURCES, 500, seed=3) != mixed_texts(_SOURCES, 500, seed=4)


def test_workload_repeats_no_text_and_mixes_lengths() -> None:
    made = mixed_texts(_SOURCES, 2_000, seed=1)
    lengths = [len(text.split()) for text in made]
    assert len(set(made)) == 2_000
    assert (min(lengths), max(lengths)) == (MIN_WORDS, MAX_WORDS)
    assert sorted(lengths[:58]) == list(range(MIN_WORDS, MAX_WORDS + 1))


def test_workload_refuses_more_texts_than_there_are() -> None:
    with pytest.raises(ValueError, match="different texts"):
        mixed_texts(["one"], 100, seed=1)


def test_arrivals_are_seeded_ordered_and_of_the_rate() -> None:
    due = arrivals(1_000.0, 10.0, seed=5)
    assert np.array_equal(due, arrivals(1_000.0, 10.0, seed=5))
    assert (np.diff(due) >= 0).all()
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert np.diff(due).std() == pytest.approx(1e-3, rel=0.1)


def test_closed_loop_answers_each_request_once_and_keeps_to_its_number(echo: ServerProcess) -> None:
    payloads = [EncodeRequest(texts=[f"text {n}"]).SerializeToString() for n in range(400)]
    with connected(echo.address, PATHS["encode"]) as send:
        loop = ClosedLoop(send, ResponseLog(asked(payloads)), in_flight=8)
        loop.start()
        result = loop.wait()
    assert len(result) == 400
    assert loop.ran_out
    assert (result.code == 0).all()
    assert most_at_once(result) == 8


def test_closed_loop_can_be_stopped_and_loses_nothing() -> None:
    waiting: list[OnResponse] = []
    loop = ClosedLoop(lambda _request, answered: waiting.append(answered), ResponseLog(asked([b""] * 100)), in_flight=4)
    loop.start()
    for _ in range(10):
        waiting.pop(0)(0, b"")
    loop.stop()
    for answered in waiting:
        answered(14, b"")
    result = loop.wait()
    assert not loop.ran_out
    assert result.code.tolist() == [0] * 10 + [14] * 4


def test_open_loop_sends_everything_not_before_it_is_due(echo: ServerProcess) -> None:
    due = arrivals(2_000.0, 0.1, seed=2)
    with connected(echo.address, PATHS["encode"]) as send:
        result = open_loop(send, ResponseLog(asked([b""] * len(due))), due, time.monotonic())
    assert len(result) == len(due)
    assert (result.sent >= result.intended).all()
    assert (result.done > result.sent).all()


def test_a_dead_server_ends_the_loop_with_its_code() -> None:
    with (
        running_server(["-m", "swiftrec.benchmarks", "echo"], core=None) as served,
        connected(served.address, PATHS["encode"]) as send,
    ):
        os.kill(served.pid or 0, 9)
        loop = ClosedLoop(send, ResponseLog(asked([b""] * 20)), in_flight=4)
        loop.start()
        codes = loop.wait().code.tolist()
        assert set(codes) == {14}
        assert 4 <= len(codes) < 8, "four in a row, and those that were under way then"


def test_a_single_refusal_as_unavailable_does_not_end_the_loop() -> None:
    waiting: list[OnResponse] = []
    loop = ClosedLoop(lambda _request, answered: waiting.append(answered), ResponseLog(asked([b""] * 12)), in_flight=2)
    loop.start()
    for code in (14, 0, 14, 0, 14, 0, 14, 0, 0, 0, 0, 0):
        waiting.pop(0)(code, b"")
    assert len(loop.wait()) == 12


def test_calls_that_grpc_refuses_are_refusals_only_while_the_servers_process_is_known_to_live() -> None:
    result: dict[str, Any] = {"codes": {"0": 5, "8": 2, "14": 3}, "wrong": 0}
    server_process._check(ServerProcess("there", os.getpid()), result, may_reject=True)
    for served, may_reject in ((ServerProcess("there", None), True), (ServerProcess("there", os.getpid()), False)):
        with pytest.raises(RuntimeError, match="there went away, 3 requests"):
            server_process._check(served, result, may_reject=may_reject)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("pass", "exit code 0 without an error message"),
        ("import sys; sys.exit('a line\\nserver: the port is in use\\n')", "server: the port is in use$"),
        ("import sys; print('loading'); sys.exit('the port is in use')", "the port is in use$"),
        ("print('no address')", "no address$"),
    ],
)
def test_a_server_that_does_not_start_is_an_error_with_its_last_words(code: str, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=f"did not start: {sentence}"), running_server(["-c", code], core=None):
        pass


def test_a_server_that_ends_while_it_is_measured_is_an_error_with_its_last_words() -> None:
    code = "import sys; print('ready on 127.0.0.1:1', flush=True); sys.exit('out of memory')"
    with running_server(["-c", code], core=None) as served:
        assert served.pid is not None
        os.waitid(os.P_PID, served.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(RuntimeError, match=r"ended while it was measured: out of memory$"):
            served.check()


def test_cpu_seconds_counts_the_work_of_a_process() -> None:
    before, own = cpu_seconds(os.getpid()), time.process_time()
    sum(range(2_000_000))
    assert cpu_seconds(os.getpid()) - before == pytest.approx(time.process_time() - own, abs=0.005)


def test_echo_reply_has_the_size_of_a_real_one() -> None:
    assert 512 < len(response().SerializeToString()) < 560


def test_null_session_answers_a_row_for_each_row() -> None:
    assert NullSession(128, service_s=0.0).run({"input_ids": np.zeros((5, 9))}).shape == (5, 128)


def test_a_core_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="may not be used"), pinned(10_000):
        pass


def most_at_once(result: RequestRows) -> int:
    """The largest number of requests that were under way at one time."""
    steps = sorted([(moment, 1) for moment in result.sent] + [(moment, -1) for moment in result.done])
    return int(np.cumsum([step for _, step in steps]).max())


def window(intended: list[float], done: list[float], codes: list[int] | None = None, **facts: Any) -> Window:  # noqa: ANN401
    """Ten seconds, of which a client used one of CPU and the server four."""
    times, ones = np.array(intended), np.ones(len(intended), np.int32)
    rows = RequestRows(times, times, np.array(done), np.array(codes or [0] * len(done), np.int32), 7 * ones, ones)
    first, last = CpuReading(0.0, 0.0, 2.0, 5.0), CpuReading(10.0, 10.0, 6.0, 6.0)
    return replace(Window(rows, first, last, read_responses("recommend", []), 7.0, is_open=True), **facts)


def of(result: Window, cores: int = 1) -> dict[str, Any]:
    return window_figures(result, slo_ms=100.0, max_busy=0.9, max_late_ms=5.0, cores=cores)


def test_beyond_capacity_an_open_loop_reports_what_came_and_not_what_was_sent() -> None:
    """100 a second are sent, 50 answered: within the window half of them are, though in the end all."""
    due = np.arange(0.0, 10.0, 0.01)
    result = of(window(due.tolist(), (due[0] + 0.02 * np.arange(1, len(due) + 1)).tolist()))
    assert result["requests"] == 1_000
    assert result["failed"] == 0
    assert result["throughput"] == pytest.approx(50, rel=0.01)
    assert result["p99_ms"] > 9_000, "latency is counted from the intended send, over all that was sent in the window"


def test_answers_to_what_the_warm_up_sent_are_throughput_and_no_latency() -> None:
    result = of(window([-1.0, -1.0, 5.0], [1.0, 1.0, 5.01]))
    assert (result["requests"], result["throughput"]) == (1, 0.3)
    assert result["p50_ms"] == pytest.approx(10)


def test_cpu_is_a_good_answers_and_the_mix_is_theirs() -> None:
    result = window([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0, 8, 0])
    result = replace(result, rows=replace(result.rows, tokens=np.array([10, 900, 11], np.int32)))
    assert of(result)["server_us"] == pytest.approx(2e6)
    assert of(result)["mix"] == pytest.approx(10.5 / 7)


def test_clients_that_share_a_core_are_busy_when_it_is() -> None:
    """Three clients of .32 each on one core leave it nothing; on three cores they are idle."""
    item = window([1.0], [1.0], last=CpuReading(10.0, 10.0, 6.0, 8.2))
    three = merge_windows([item, item, item])
    assert of(three, cores=1)["busy"] == pytest.approx(0.96)
    assert "the client is the bottleneck" in of(three, cores=1)["bottleneck"]
    assert of(three, cores=8)["busy"] == pytest.approx(0.32)
    assert of(three, cores=8)["bottleneck"] == ""


def reply(*steps_ms: float) -> bytes:
    timings = pb.Timings(**{f"{step}_ms": ms for step, ms in zip(STEPS, steps_ms, strict=True)})
    return pb.RecommendResponse(items=[pb.RankedItem(item_id="1")], timings=timings).SerializeToString()


def test_steps_are_those_of_the_replies() -> None:
    result = read_responses("recommend", [reply(0.1, n, 2.0, 0.5, n + 3) for n in range(101)]).percentiles()
    assert set(result) == set(STEPS)
    assert result["encode"] == pytest.approx({"p50_ms": 50, "p99_ms": 99})
    assert result["total"] == pytest.approx({"p50_ms": 53, "p99_ms": 102})
    assert result["rank"] == pytest.approx({"p50_ms": 2, "p99_ms": 2})


def test_steps_of_a_list_are_those_of_its_entries() -> None:
    entries = [pb.BatchRecommendResult(response=pb.RecommendResponse.FromString(reply(n, 0, 0, 0, n))) for n in (1, 3)]
    result = read_responses("batch", [pb.BatchRecommendResponse(results=entries).SerializeToString()])
    assert result.percentiles()["tokenise"]["p50_ms"] == pytest.approx(2)


def test_replies_of_the_warm_up_can_be_left_out() -> None:
    ones = np.ones(3, np.int32)
    log = ResponseLog(Requests("recommend", [b""] * 3, ones, ones))
    for number, intended in enumerate((0.0, 1.0, 2.0)):
        log.add(number, intended, intended, 0, b"%d" % number)
    assert log.responses() == [b"0", b"1", b"2"]
    assert log.responses(1.0, 2.0, by="intended") == [b"1"]
    assert log.responses(0.0, 2.5) == [], "they were answered now"


def test_a_client_at_its_limit_is_an_error_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"bottleneck": "the client is the bottleneck", "codes": {"0": 9}, "wrong": 0}\n'
    ended = type("Completed", (), {"stdout": line, "stderr": "", "returncode": 1})()
    monkeypatch.setattr(server_process.subprocess, "run", lambda *_, **__: ended)  # type: ignore[attr-defined]
    monkeypatch.setattr(server_process, "load_cores", lambda: {0})
    with pytest.raises(RuntimeError, match="the client is the bottleneck"):
        server_process.run_load_tool(ServerProcess("there", None))
    assert server_process.run_load_tool(ServerProcess("there", None), may_limit=True)["codes"] == {"0": 9}


def test_garbage_is_collected_before_the_load_starts_and_not_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection of a large heap takes longer than a short warm-up."""
    events: list[str] = []
    monkeypatch.setattr(load_tool.gc, "collect", lambda: events.append("collected"))  # type: ignore[attr-defined]
    ones = np.ones(1, np.int32)
    requests = Requests("encode", [b"x"], ones, ones)

    def send(_request: bytes, on_response: Callable[[int, bytes], None]) -> None:
        events.append("enabled" if gc.isenabled() else "sent")
        threading.Timer(0.01, on_response, [0, b""]).start()

    plan = load_tool.LoadPlan(requests, None, warmup_s=0.0, seconds=0.05, cycle=True)
    run = load_tool.run_load(send, plan, ResponseLog(requests), lambda: None)
    assert events[0] == "collected"
    assert set(events[1:]) == {"sent"}
    assert run.rows.sent[0] <= run.last.planned
    assert gc.isenabled()
