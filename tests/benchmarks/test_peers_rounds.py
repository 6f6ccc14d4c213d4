"""Rounds of the comparison with other servers: faults, rows, percentiles and notes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.peers import command as command
from swiftrec.benchmarks.peers import install, process_tree, rounds, tables
from swiftrec.benchmarks.peers.ground_truth import GroundTruth
from swiftrec.benchmarks.peers.measure import RoundFigures, measure, p99_or_none
from swiftrec.benchmarks.peers.results import PeerResults, RoundResult
from swiftrec.benchmarks.peers.rounds import run_rounds
from swiftrec.benchmarks.peers.session import PeerSession
from swiftrec.benchmarks.peers.targets import (
    DOCUMENTED,
    OURS,
    SPLIT,
    UNARY,
    Target,
)
from swiftrec.benchmarks.statistics import MIN_P99_RESPONSES, OK
from swiftrec.benchmarks.suite import render
from swiftrec.benchmarks.suite.overview import newest_results
from swiftrec.benchmarks.suite.targets import PeerComparison
from tests.benchmarks.peers import CORE, DYING, ECHO, IDS, PLAN, TEXTS, TOKENS, fake, figures, scores, setup
from tests.benchmarks.results import peers_result, result, save


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., PeerResults]:
    commands = {"good": ECHO, "dying": DYING, "absent": [str(tmp_path / "nothing here")]}
    monkeypatch.setattr(rounds, "HOME", tmp_path)
    monkeypatch.setattr(rounds, "SERVER_CORE", CORE)
    monkeypatch.setattr(rounds, "load_cores", lambda: {CORE})
    monkeypatch.setattr(rounds, "python_of", lambda name: Path(name))
    monkeypatch.setattr(rounds, "client_costs", lambda *_: {"http": 20.0})
    monkeypatch.setattr(rounds, "floor_us", lambda _: 100.0)
    monkeypatch.setattr(rounds, "peer_command", lambda target: commands[target.name])

    def run(*chosen: Target, right: GroundTruth | None = None, repeats: int = 2) -> PeerResults:
        results = PeerResults(1)
        rounds.install_all(chosen, results)
        list(run_rounds(setup(right or scores()), chosen, repeats, results))
        return results

    return run


def test_a_server_is_measured_in_every_round(run: Callable[..., PeerResults]) -> None:
    results = run(fake("good"), fake("good", SPLIT))
    rows = results.rows()
    assert [(row["target"], row["mode"]) for row in rows] == [("good", DOCUMENTED), ("good", SPLIT)]
    for row in rows:
        assert len(row["rounds"]) == 2
        assert row["requests_per_s"] > 100
        assert (row["errors"], row["wrong_answers"], row["alone_equals_batch"]) == (0, 0, True)
        assert row["p50_ms_one_in_flight"] > 0
        low, high = row["spread"]["share_of_floor_by_cpu"]
        assert low <= row["share_of_floor_by_cpu"] <= high


def test_wrong_answers_are_counted_and_change_no_other_figure(run: Callable[..., PeerResults]) -> None:
    (row,) = run(fake("good"), right=scores(best=IDS[10:]), repeats=1).rows()
    assert row["wrong_answers"] == row["rounds"][0]["answers"] > 0
    assert row["errors"] == 0


def test_a_server_that_cannot_start_says_why_and_the_others_go_on(
    run: Callable[..., PeerResults], tmp_path: Path
) -> None:
    results = run(fake("absent"), fake("good"))
    assert results.skipped == {"absent": f"{tmp_path / 'nothing here'}: No such file or directory"}
    assert [row["target"] for row in results.rows()] == ["good"]
    assert "absent: not measured: " in results.table()
    assert not results.died


def test_a_server_that_dies_is_named_and_the_others_go_on(run: Callable[..., PeerResults]) -> None:
    results = run(fake("dying"), fake("good"))
    assert list(results.died) == ["int8, dying, as documented"]
    assert "exit code 3" in results.died["int8, dying, as documented"]
    assert [len(row["rounds"]) for row in results.rows()] == [2]


def test_a_peer_that_does_not_install_is_skipped(
    run: Callable[..., PeerResults], monkeypatch: pytest.MonkeyPatch
) -> None:
    def python_of(name: str) -> Path:
        raise install.InstallError(f"does not install: ERROR: no matching distribution for {name}")

    monkeypatch.setattr(rounds, "python_of", python_of)
    assert run(fake("good")).skipped["good"].startswith("does not install: ERROR")


def test_an_interrupted_run_ends_its_server(run: Callable[..., PeerResults], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupt(running: process_tree.ProcessTree, *_: object) -> RoundFigures:
        started.append(running.process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(fake("good"))
    assert not Path(f"/proc/{started[0]}").exists()


def test_shares_are_of_the_floor_for_the_texts_that_were_answered() -> None:
    entry = RoundResult(figures(), floor_us=1_000.0)
    assert entry.share == pytest.approx(500 * 1_000 * 0.9 / 1e6)
    assert entry.cpu_share == pytest.approx(1_000 * 0.9 / 1_250)


def test_rows_have_what_the_report_reads() -> None:
    results = PeerResults(1)
    for rate in (400.0, 500.0, 450.0):
        results.add("int8", fake("a"), RoundResult(figures(requests_per_s=rate), 1_000.0))
    (row,) = results.rows()
    assert {
        "target", "variant", "mode", "requests_per_s", "share_of_floor", "p50_ms_one_in_flight", "p99_ms_at_70",
        "errors", "wrong_answers", "alone_equals_batch", "spread",
    } <= row.keys()  # fmt: skip
    assert row["requests_per_s"] == 450
    assert row["spread"]["requests_per_s"] == [400, 500]


def test_a_figure_that_was_not_measured_is_null() -> None:
    results = PeerResults(1)
    missing = figures(p99_ms_at_70=None, late_ms=float("nan"), trouble="a request failed")
    results.add("int8", fake("a"), RoundResult(missing, 1_000.0))
    (row,) = results.rows()
    assert row["rounds"][0]["late_ms"] is None
    assert row["p99_ms_at_70"] is None
    assert "too few" in results.table()
    assert "int8, a, as documented: a request failed" in results.table()


def test_a_late_client_is_noted_if_the_median_of_the_rounds_is_late() -> None:
    for late, is_noted in (((0.1, 30.0, 0.2), False), ((0.1, 30.0, 20.0), True)):
        results = PeerResults(1)
        for late_ms in late:
            results.add("int8", fake("a"), RoundResult(figures(late_ms=late_ms), 1_000.0))
        assert results.rows()[0]["note"] == ("the client sent up to 30.0 ms late at 70 %" if is_noted else "")


def test_a_client_at_its_limit_is_noted() -> None:
    results = PeerResults(1)
    results.add("int8", fake("a"), RoundResult(figures(client_busy=0.97), 1_000.0))
    results.add("int8", fake("b"), RoundResult(figures(client_busy=0.5), 1_000.0))
    assert [bool(row["note"]) for row in results.rows()] == [True, False]


def row(rounds: Sequence[Sequence[float]], name: str = "a", mode: str = UNARY) -> dict[str, Any]:
    """Of a server with these latencies at 70 %, round by round."""
    results = PeerResults(1)
    for latencies in rounds:
        result = np.array(latencies)
        results.add(
            "int8", fake(name, mode), RoundResult(figures(p99_ms_at_70=p99_or_none(result), latency_ms=result), 1_000.0)
        )
    return results.rows()[0]


def test_rounds_with_answers_enough_have_a_p99_each() -> None:
    result = row([[value] * MIN_P99_RESPONSES for value in (3.0, 5.0, 4.0)])
    assert result["p99_ms_at_70"] == 4.0
    assert result["spread"]["p99_ms_at_70"] == [3.0, 5.0]


@pytest.mark.parametrize("sizes", [(100, 100, 100), (MIN_P99_RESPONSES, MIN_P99_RESPONSES, MIN_P99_RESPONSES - 1)])
def test_one_round_with_too_few_answers_makes_the_p99_that_of_all_together(sizes: Sequence[int]) -> None:
    latencies = [[10.0 * number] * size for number, size in enumerate(sizes, 1)]
    result = row(latencies)
    assert result["p99_ms_at_70"] == pytest.approx(np.percentile(np.concatenate(latencies), 99))
    assert result["rounds"][2]["p99_ms_at_70"] is None
    assert "p99_ms_at_70" not in result["spread"]


def test_too_few_answers_in_all_rounds_are_no_p99() -> None:
    assert row([[1.0] * 99] * 3)["p99_ms_at_70"] is None


def test_latencies_are_not_written_into_the_result() -> None:
    results = PeerResults(1)
    results.add("int8", fake("a"), RoundResult(figures(latency_ms=np.ones(400)), 1_000.0))
    assert "latency_ms" not in results.rows()[0]["rounds"][0]


def test_a_window_with_too_few_answers_has_latencies_and_no_p99() -> None:
    """At most 800 a second come from a server that takes 5 ms, of which the window has 168."""

    def ask(_request: bytes, answered: Callable[[int, bytes], None]) -> None:
        threading.Timer(0.005, answered, [OK, json.dumps(IDS[:10]).encode()]).start()

    running = SimpleNamespace(cpu_s=float, check=lambda: None)
    result = measure(
        cast("process_tree.ProcessTree", running), ask, PeerSession(fake("a"), scores(), TEXTS, TOKENS), PLAN
    )
    assert result.p99_ms_at_70 is None
    assert 0 < len(result.latency_ms) < MIN_P99_RESPONSES


def test_the_promise_is_judged_by_the_p99_of_all_rounds_where_one_has_none() -> None:
    ours, theirs = row([[2.0] * 200] * 3, OURS), row([[4.0] * MIN_P99_RESPONSES] * 3, "mosec")
    rows = {(item["target"], item["mode"]): item for item in (ours, theirs)}
    result = {promise.name: promise for promise in PeerComparison("int8", rows, {}, "a").promises(static=False)}
    assert result[f"int8, p99 at 70 % load: {UNARY} / mosec {UNARY}"].values == [0.5]
    assert len(result[f"int8, p50 with one in flight: {UNARY} / mosec {UNARY}"].values) == 3


def cut(rounds: int = 2, requested: int = 3) -> PeerResults:
    """A comparison in which server b died: "a" was measured as often as requested."""
    results = PeerResults(requested, died={"int8, b, as documented": "exit code 3"})
    for name, number in (("a", requested), ("b", rounds)):
        for _ in range(number):
            results.add("int8", fake(name), RoundResult(figures(), 1_000.0))
    return results


def test_a_row_with_fewer_rounds_than_requested_is_marked_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = peers_result(cut().rows(), skipped=cut().why_skipped(), is_partial=True, reason="b died")
    folder = save(tmp_path, "2026-01-01", result(), peers)
    assert main(["summary", "--json", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["peers_partial"] == {"int8, b, as documented": "2 of 3 rounds"}
    assert "the comparison with other servers is not complete: partial: b died" in printed.err
    page = render.results(newest_results(tmp_path, folder))
    assert [line[:5] for line in page.splitlines() if line.startswith(("| a |", "| b |"))] == ["| a |", "| b |"]
    assert "medians of 3 rounds (range)" in page
    assert "- int8, b, as documented: 2 of 3 rounds" in page
    assert "int8, b, as documented: 2 of 3 rounds" in cut().table()


def test_a_run_that_ended_in_its_second_round_marks_every_row() -> None:
    assert set(tables.few_rounds(cut(rounds=1, requested=1).rows())) == set()
    results = cut(rounds=2, requested=2)
    results.repeats = 3
    assert set(tables.few_rounds(results.rows()).values()) == {"2 of 3 rounds"}
