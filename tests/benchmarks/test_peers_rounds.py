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

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.peers import family
from swiftrec.benchmarks.peers.asked import Asked
from swiftrec.benchmarks.peers.measure import measure, p99_or_none
from swiftrec.benchmarks.peers.results import Entry, Results
from swiftrec.benchmarks.peers.targets import OURS, UNARY
from swiftrec.benchmarks.suite import apart, readme, store, terminal
from swiftrec.benchmarks.suite.aims import Compared
from swiftrec.benchmarks.suite.digest import digest
from swiftrec.benchmarks.suite.joined import merged
from swiftrec.benchmarks.suite.result import Peers
from swiftrec.benchmarks.summary import FEWEST_P99, OK
from tests.benchmarks.peers import BUNDLE_ID, IDS, PLAN, TEXTS, TOKENS, fake, figures, scores
from tests.benchmarks.results import result


def row(rounds: Sequence[Sequence[float]], name: str = "a", mode: str = UNARY) -> dict[str, Any]:
    """Of a server with these latencies at 70 %, round by round."""
    results = Results({}, BUNDLE_ID)
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
    results = Results({}, BUNDLE_ID)
    results.add("int8", fake("a"), Entry(figures(latency_ms=np.ones(400)), 1_000.0))
    results.save(tmp_path / "out.json")
    assert "latency_ms" not in json.loads((tmp_path / "out.json").read_text())["rows"][0]["rounds"][0]


def test_a_window_with_too_few_answers_has_latencies_and_no_p99() -> None:
    """At most 800 a second come from a server that takes 5 ms, of which the window has 168."""

    def ask(_request: bytes, answered: Callable[[int, bytes], None]) -> None:
        threading.Timer(0.005, answered, [OK, json.dumps(IDS[:10]).encode()]).start()

    running = SimpleNamespace(cpu_s=dict, check=lambda: None)
    found = measure(cast("family.Family", running), ask, Asked(fake("a"), scores(), TEXTS, TOKENS), PLAN)
    assert found.p99_ms_at_70 is None
    assert 0 < len(found.latency_ms) < FEWEST_P99


def test_the_promise_is_judged_by_the_p99_of_all_rounds_where_one_has_none() -> None:
    ours, theirs = row([[2.0] * 200] * 3, OURS), row([[4.0] * FEWEST_P99] * 3, "mosec")
    rows = {(one["target"], one["mode"]): one for one in (ours, theirs)}
    found = {aim.name: aim for aim in Compared("int8", rows, {}, "a").aims(static=False)}
    assert found[f"int8, p99 at 70 % load: {UNARY} / mosec {UNARY}"].values == [0.5]
    assert len(found[f"int8, p50 with one in flight: {UNARY} / mosec {UNARY}"].values) == 3


def cut(rounds: int = 2, asked: int = 3) -> Results:
    """A comparison in which server b died: "a" was measured as often as asked."""
    results = Results({"repeats": asked}, BUNDLE_ID, died={"int8, b, as documented": "exit code 3"})
    for name, number in (("a", asked), ("b", rounds)):
        for _ in range(number):
            results.add("int8", fake(name), Entry(figures(), 1_000.0))
    return results


def test_a_row_with_fewer_rounds_than_asked_is_marked_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = Peers.model_validate(cut().section())
    assert peers.is_partial
    (tmp_path / "2026-01-01").mkdir()
    run = result(peers=peers)
    store.save(tmp_path / "2026-01-01", run)
    assert main(["summary", "--json", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["peers_partial"] == {"int8, b, as documented": "2 of 3 rounds"}
    assert "the comparison with other servers is partial" in said.err
    table = readme.table(readme.slim(run, digest(tmp_path)))
    assert [line.split("|")[-2] for line in table.splitlines() if line.startswith(("| a as", "| b as"))] == [
        " 0 ", " 0, 2 of 3 rounds "
    ]  # fmt: skip
    assert "Medians of 3 rounds (range), of fewer where the last column says so." in table
    block = terminal.block(run)
    assert "int8, b, as documented: 2 of 3 rounds" in block
    assert "PARTIAL: not all of the comparison" in block


def test_a_run_that_was_cut_in_its_second_round_marks_every_row() -> None:
    assert set(apart.few_rounds(cut(rounds=1, asked=1).rows())) == set()
    results = cut(rounds=2, asked=2)
    results.settings = {"repeats": 3}
    assert set(apart.few_rounds(results.rows()).values()) == {"2 of 3 rounds"}


def test_an_older_result_marks_the_rows_that_have_fewer_rounds_than_others() -> None:
    rows = [{name: value for name, value in one.items() if name != "rounds_asked"} for one in cut().rows()]
    assert apart.few_rounds(rows) == {"int8, b, as documented": "2 of 3 rounds"}


@pytest.mark.parametrize(("again", "is_partial"), [("int8", False), ("fp32", True)])
def test_a_partial_comparison_stays_so_until_it_is_measured_again(again: str, is_partial: bool) -> None:
    whole = Results({"repeats": 1}, BUNDLE_ID, is_partial=False)
    whole.add(again, fake("a"), Entry(figures(), 1_000.0))
    old, new = (Peers.model_validate(one.section()) for one in (cut(), whole))
    assert merged(old, new).is_partial is is_partial
    assert merged(new, Peers()).is_partial is False
    assert merged(old, Peers()).is_partial is True
