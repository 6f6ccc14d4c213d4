"""The measuring tools: figures of known rows, a workload that repeats itself, loops that lose no request."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import measure
from swiftrec.benchmarks.client import Answered, ClosedLoop, Log, arrivals, connected, open_loop
from swiftrec.benchmarks.echo import reply
from swiftrec.benchmarks.machine import cpu_seconds, pinned
from swiftrec.benchmarks.process import Served, serving
from swiftrec.benchmarks.ratio import Round
from swiftrec.benchmarks.stub import StubSession
from swiftrec.benchmarks.summary import Rows, summarise
from swiftrec.benchmarks.texts import FEWEST_WORDS, MOST_WORDS, mixed_texts
from swiftrec.benchmarks.workload import PATHS, Asked
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest

_SOURCES = [f"title{n} ({1900 + n}). drama, comedy" for n in range(200)]


def rows(latencies_s: list[float], codes: list[int], late_s: float = 0.0) -> Rows:
    intended = np.arange(len(codes), dtype=np.float64)
    done, tokens = intended + np.asarray(latencies_s), np.full(len(codes), 10, dtype=np.int32)
    return Rows(intended, intended + late_s, done, np.asarray(codes, dtype=np.int32), tokens, np.ones_like(tokens))


def asked(payloads: list[bytes]) -> Asked:
    ones = np.ones(len(payloads), dtype=np.int32)
    return Asked("encode", payloads, ones, ones)


@pytest.fixture(scope="module", params=["threads", "aio"])
def echo(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(["-m", "swiftrec.benchmarks", "echo", "--front", request.param], core=None) as served:
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
    loaded = Rows.load(tmp_path / "rows.npz")
    assert len(loaded) == 10
    assert loaded.within(2.5, 5.5).done.tolist() == [2.5, 3.5, 4.5]


def test_workload_is_the_same_for_a_seed_and_begins_the_same_when_longer() -> None:
    assert mixed_texts(_SOURCES, 500, seed=3) == mixed_texts(_SOURCES, 900, seed=3)[:500]
    assert mixed_texts(_SOURCES, 500, seed=3) != mixed_texts(_SOURCES, 500, seed=4)


def test_workload_repeats_no_text_and_mixes_lengths() -> None:
    made = mixed_texts(_SOURCES, 2_000, seed=1)
    lengths = [len(text.split()) for text in made]
    assert len(set(made)) == 2_000
    assert (min(lengths), max(lengths)) == (FEWEST_WORDS, MOST_WORDS)
    assert sorted(lengths[:58]) == list(range(FEWEST_WORDS, MOST_WORDS + 1))


def test_workload_refuses_more_texts_than_there_are() -> None:
    with pytest.raises(ValueError, match="different texts"):
        mixed_texts(["one"], 100, seed=1)


def test_arrivals_are_seeded_ordered_and_of_the_rate() -> None:
    due = arrivals(1_000.0, 10.0, seed=5)
    assert np.array_equal(due, arrivals(1_000.0, 10.0, seed=5))
    assert (np.diff(due) >= 0).all()
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert np.diff(due).std() == pytest.approx(1e-3, rel=0.1)


def test_closed_loop_answers_each_request_once_and_keeps_to_its_number(echo: Served) -> None:
    payloads = [EncodeRequest(texts=[f"text {n}"]).SerializeToString() for n in range(400)]
    with connected(echo.address, PATHS["encode"]) as send:
        loop = ClosedLoop(send, Log(asked(payloads)), in_flight=8)
        loop.start()
        found = loop.rows()
    assert len(found) == 400
    assert loop.ran_out
    assert (found.code == 0).all()
    assert most_at_once(found) == 8


def test_closed_loop_stops_when_told_and_loses_nothing() -> None:
    waiting: list[Answered] = []
    loop = ClosedLoop(lambda _request, answered: waiting.append(answered), Log(asked([b""] * 100)), in_flight=4)
    loop.start()
    for _ in range(10):
        waiting.pop(0)(0, b"")
    loop.stop()
    for answered in waiting:
        answered(14, b"")
    found = loop.rows()
    assert not loop.ran_out
    assert found.code.tolist() == [0] * 10 + [14] * 4


def test_open_loop_sends_everything_not_before_it_is_due(echo: Served) -> None:
    due = arrivals(2_000.0, 0.1, seed=2)
    with connected(echo.address, PATHS["encode"]) as send:
        found = open_loop(send, Log(asked([b""] * len(due))), due, time.monotonic())
    assert len(found) == len(due)
    assert (found.sent >= found.intended).all()
    assert (found.done > found.sent).all()


def test_a_dead_server_ends_the_loop_with_its_code() -> None:
    with (
        serving(["-m", "swiftrec.benchmarks", "echo"], core=None) as served,
        connected(served.address, PATHS["encode"]) as send,
    ):
        os.kill(served.pid or 0, 9)
        loop = ClosedLoop(send, Log(asked([b""] * 20)), in_flight=4)
        loop.start()
        codes = loop.rows().code.tolist()
        assert set(codes) == {14}
        assert 4 <= len(codes) < 8, "four in a row, and those that were under way then"


def test_a_single_refusal_as_unavailable_does_not_end_the_loop() -> None:
    waiting: list[Answered] = []
    loop = ClosedLoop(lambda _request, answered: waiting.append(answered), Log(asked([b""] * 12)), in_flight=2)
    loop.start()
    for code in (14, 0, 14, 0, 14, 0, 14, 0, 0, 0, 0, 0):
        waiting.pop(0)(code, b"")
    assert len(loop.rows()) == 12


def test_calls_that_grpc_refuses_are_refusals_only_while_the_servers_process_is_known_to_live() -> None:
    found: dict[str, Any] = {"codes": {"0": 5, "8": 2, "14": 3}, "wrong": 0}
    measure._check(Served("there", os.getpid()), found, may_refuse=True)
    for served, may_refuse in ((Served("there", None), True), (Served("there", os.getpid()), False)):
        with pytest.raises(RuntimeError, match="there went away: 3 requests"):
            measure._check(served, found, may_refuse=may_refuse)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("pass", "exit code 0 without a word"),
        ("import sys; sys.exit('a line\\nserver: the port is in use\\n')", "server: the port is in use$"),
        ("import sys; print('loading'); sys.exit('the port is in use')", "the port is in use$"),
        ("print('no address')", "no address$"),
    ],
)
def test_a_server_that_does_not_start_is_an_error_with_its_last_words(code: str, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=f"did not start: {sentence}"), serving(["-c", code], core=None):
        pass


def test_a_server_that_ends_while_it_is_measured_is_an_error_with_its_last_words() -> None:
    code = "import sys; print('ready on 127.0.0.1:1', flush=True); sys.exit('out of memory')"
    with serving(["-c", code], core=None) as served:
        assert served.pid is not None
        os.waitid(os.P_PID, served.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(RuntimeError, match=r"ended while it was measured: out of memory$"):
            served.check()


def test_cpu_seconds_counts_the_work_of_a_process() -> None:
    before, own = cpu_seconds(os.getpid()), time.process_time()
    sum(range(2_000_000))
    assert cpu_seconds(os.getpid()) - before == pytest.approx(time.process_time() - own, abs=0.005)


def test_echo_reply_has_the_size_of_a_real_one() -> None:
    assert 512 < len(reply().SerializeToString()) < 560


def test_work_ratio_is_the_share_of_work() -> None:
    entry = Round(floor_us=1_500, echo_us=300, server_us=2_000, throughput=500, mix=0.9, p50_ms=1, p99_ms=2)
    assert entry.work_ratio == pytest.approx((0.9 * 1_500 + 300) / 2_000)
    assert entry.overhead == pytest.approx(2_000 / 300)


def test_stub_session_answers_a_row_for_each_row() -> None:
    assert StubSession(128, service_s=0.0).run({"input_ids": np.zeros((5, 9))}).shape == (5, 128)


def test_a_core_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="may not be used"), pinned(10_000):
        pass


def most_at_once(found: Rows) -> int:
    """The largest number of requests that were under way at one time."""
    steps = sorted([(moment, 1) for moment in found.sent] + [(moment, -1) for moment in found.done])
    return int(np.cumsum([step for _, step in steps]).max())
