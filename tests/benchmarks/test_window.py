"""What a window of load adds up to: what came in it and not what was sent in it, and steps as the replies tell them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import measure
from swiftrec.benchmarks.client import Log
from swiftrec.benchmarks.machine import Reading
from swiftrec.benchmarks.process import Served
from swiftrec.benchmarks.replies import STEPS, read
from swiftrec.benchmarks.summary import Rows
from swiftrec.benchmarks.window import Window, figures, joined
from swiftrec.benchmarks.workload import Asked
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb


def window(intended: list[float], done: list[float], codes: list[int] | None = None, **facts: Any) -> Window:  # noqa: ANN401
    """Ten seconds, of which a client used one of CPU and the server four."""
    times, ones = np.array(intended), np.ones(len(intended), np.int32)
    rows = Rows(times, times, np.array(done), np.array(codes or [0] * len(done), np.int32), 7 * ones, ones)
    first, last = Reading(0.0, 0.0, 2.0, 5.0), Reading(10.0, 10.0, 6.0, 6.0)
    return replace(Window(rows, first, last, read("recommend", []), 7.0, is_open=True), **facts)


def of(found: Window, cores: int = 1) -> dict[str, Any]:
    return figures(found, slo_ms=100.0, max_busy=0.9, max_late_ms=5.0, cores=cores)


def test_beyond_capacity_an_open_loop_reports_what_came_and_not_what_was_sent() -> None:
    """100 a second are sent, 50 answered: within the window half of them are, though in the end all."""
    due = np.arange(0.0, 10.0, 0.01)
    found = of(window(due.tolist(), (due[0] + 0.02 * np.arange(1, len(due) + 1)).tolist()))
    assert found["requests"] == 1_000
    assert found["failed"] == 0
    assert found["throughput"] == pytest.approx(50, rel=0.01)
    assert found["p99_ms"] > 9_000, "latency is counted from the intended send, over all that was sent in the window"


def test_answers_to_what_the_warm_up_sent_are_throughput_and_no_latency() -> None:
    found = of(window([-1.0, -1.0, 5.0], [1.0, 1.0, 5.01]))
    assert (found["requests"], found["throughput"]) == (1, 0.3)
    assert found["p50_ms"] == pytest.approx(10)


def test_cpu_is_a_good_answers_and_the_mix_is_theirs() -> None:
    found = window([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0, 8, 0])
    found = replace(found, rows=replace(found.rows, tokens=np.array([10, 900, 11], np.int32)))
    assert of(found)["server_us"] == pytest.approx(2e6)
    assert of(found)["mix"] == pytest.approx(10.5 / 7)


def test_clients_that_share_a_core_are_busy_when_it_is() -> None:
    """Three clients of .32 each on one core leave it nothing; on three cores they are idle."""
    one = window([1.0], [1.0], last=Reading(10.0, 10.0, 6.0, 8.2))
    three = joined([one, one, one])
    assert of(three, cores=1)["busy"] == pytest.approx(0.96)
    assert "the client is the bottleneck" in of(three, cores=1)["bottleneck"]
    assert of(three, cores=8)["busy"] == pytest.approx(0.32)
    assert of(three, cores=8)["bottleneck"] == ""


def reply(*steps_ms: float) -> bytes:
    timings = pb.Timings(**{f"{step}_ms": ms for step, ms in zip(STEPS, steps_ms, strict=True)})
    return pb.RecommendResponse(items=[pb.RankedItem(item_id="1")], timings=timings).SerializeToString()


def test_steps_are_those_of_the_replies() -> None:
    found = read("recommend", [reply(0.1, n, 2.0, 0.5, n + 3) for n in range(101)]).percentiles()
    assert set(found) == set(STEPS)
    assert found["encode"] == pytest.approx({"p50_ms": 50, "p99_ms": 99})
    assert found["total"] == pytest.approx({"p50_ms": 53, "p99_ms": 102})
    assert found["rank"] == pytest.approx({"p50_ms": 2, "p99_ms": 2})


def test_steps_of_a_list_are_those_of_its_entries() -> None:
    entries = [pb.BatchRecommendResult(response=pb.RecommendResponse.FromString(reply(n, 0, 0, 0, n))) for n in (1, 3)]
    found = read("batch", [pb.BatchRecommendResponse(results=entries).SerializeToString()])
    assert found.percentiles()["tokenise"]["p50_ms"] == pytest.approx(2)


def test_replies_of_the_warm_up_can_be_left_out() -> None:
    ones = np.ones(3, np.int32)
    log = Log(Asked("recommend", [b""] * 3, ones, ones))
    for number, intended in enumerate((0.0, 1.0, 2.0)):
        log.add(number, intended, intended, 0, b"%d" % number)
    assert log.replies() == [b"0", b"1", b"2"]
    assert log.replies(1.0, 2.0, by="intended") == [b"1"]
    assert log.replies(0.0, 2.5) == [], "they were answered now"


def test_a_client_at_its_limit_is_an_error_to_whoever_does_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    line = '{"bottleneck": "the client is the bottleneck", "codes": {"0": 9}, "wrong": 0}\n'
    ended = type("Ended", (), {"stdout": line, "stderr": "", "returncode": 1})()
    monkeypatch.setattr(measure.subprocess, "run", lambda *_, **__: ended)  # type: ignore[attr-defined]
    monkeypatch.setattr(measure, "load_cores", lambda: {0})
    with pytest.raises(RuntimeError, match="the client is the bottleneck"):
        measure.load(Served("there", None))
    assert measure.load(Served("there", None), may_limit=True)["codes"] == {"0": 9}
