"""What the rounds of the comparison add up to: a p99 of answers enough, and rows that are told to be incomplete."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from benchmarks.peers import family
from benchmarks.peers.asked import Asked
from benchmarks.peers.measure import measure, p99_or_none
from benchmarks.peers.results import Entry, Results
from benchmarks.peers.targets import OURS, UNARY
from benchmarks.suite.aims import Compared
from benchmarks.summary import FEWEST_P99, OK
from tests.peers import IDS, PLAN, TEXTS, fake, figures, scores


def row(rounds: Sequence[Sequence[float]], name: str = "a", mode: str = UNARY) -> dict[str, Any]:
    """Of a server with these latencies at 70 %, round by round."""
    results = Results({})
    for one in rounds:
        found = np.array(one)
        results.add(
            "int8", fake(name, mode), Entry(figures(p99_ms_at_70=p99_or_none(found), latency_ms=found), 1_000.0)
        )
    return results.rows()[0]


def test_rounds_with_answers_enough_have_a_p99_each() -> None:
    found = row([[value] * FEWEST_P99 for value in (3.0, 5.0, 4.0)])
    assert found["p99_ms_at_70"] == 4.0
    assert found["spread"]["p99_ms_at_70"] == [3.0, 5.0]


@pytest.mark.parametrize("sizes", [(100, 100, 100), (FEWEST_P99, FEWEST_P99, FEWEST_P99 - 1)])
def test_one_round_with_too_few_answers_makes_the_p99_that_of_all_together(sizes: Sequence[int]) -> None:
    latencies = [[10.0 * number] * size for number, size in enumerate(sizes, 1)]
    found = row(latencies)
    assert found["p99_ms_at_70"] == pytest.approx(np.percentile(np.concatenate(latencies), 99))
    assert found["rounds"][2]["p99_ms_at_70"] is None
    assert "p99_ms_at_70" not in found["spread"]


def test_too_few_answers_in_all_rounds_are_no_p99() -> None:
    assert row([[1.0] * 99] * 3)["p99_ms_at_70"] is None


def test_latencies_are_not_written_down(tmp_path: Path) -> None:
    results = Results({})
    results.add("int8", fake("a"), Entry(figures(latency_ms=np.ones(400)), 1_000.0))
    results.save(tmp_path / "out.json")
    assert "latency_ms" not in json.loads((tmp_path / "out.json").read_text())["rows"][0]["rounds"][0]


def test_a_window_with_too_few_answers_has_latencies_and_no_p99() -> None:
    """At most 800 a second come from a server that takes 5 ms, of which the window has 168."""

    def ask(_request: bytes, answered: Callable[[int, bytes], None]) -> None:
        threading.Timer(0.005, answered, [OK, json.dumps(IDS[:10]).encode()]).start()

    running = SimpleNamespace(cpu_s=dict, check=lambda: None)
    found = measure(cast("family.Family", running), ask, Asked(fake("a"), scores(), TEXTS), PLAN)
    assert found.p99_ms_at_70 is None
    assert 0 < len(found.latency_ms) < FEWEST_P99


def test_the_promise_is_judged_by_the_p99_of_all_rounds_where_one_has_none() -> None:
    ours, theirs = row([[2.0] * 200] * 3, OURS), row([[4.0] * FEWEST_P99] * 3, "mosec")
    rows = {(one["target"], one["mode"]): one for one in (ours, theirs)}
    found = {aim.name: aim for aim in Compared("int8", rows, {}, "a").aims(static=False)}
    assert found[f"int8, p99 at 70 % load: {UNARY} / mosec {UNARY}"].values == [0.5]
    assert len(found[f"int8, p50 with one in flight: {UNARY} / mosec {UNARY}"].values) == 3
