"""The report's figures: known points give known knees, regressions are caught, partial results say so."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import measure
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.extra import need, sentence
from swiftrec.benchmarks.process import Served, more_flags
from swiftrec.benchmarks.scrape import Scrape, batch_sizes, between
from swiftrec.benchmarks.suite import store, terminal
from swiftrec.benchmarks.suite.bench import Bench
from swiftrec.benchmarks.suite.compare import incomparable
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.rounds import Offline, Rounds
from swiftrec.benchmarks.suite.run import _report
from swiftrec.benchmarks.suite.scenarios import by_share, knee, read_curve
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.summary import Rows
from swiftrec.benchmarks.window import bottleneck
from swiftrec.benchmarks.workload import KINDS, Name
from tests.benchmarks.results import BUNDLE, MACHINE, point, repeated, result, workload


def test_runs_of_other_machines_bundles_or_sizes_are_not_compared() -> None:
    assert incomparable(result(), result()) == []
    others: list[dict[str, Any]] = [
        {"machine": MACHINE | {"cpu": "Other"}},
        {"bundle": BUNDLE | {"variant": "fp32"}},
        {"bundle": BUNDLE | {"version": "2"}},
        {"bundle": BUNDLE | {"export_key": "other"}},
        {"settings": {"size": "smoke"}},
        {"main": "list"},
    ]
    others.append({"failures": ["the client is the bottleneck"]})
    for other in others:
        assert len(incomparable(result(), result(**other))) >= 1


def test_knee_is_the_last_rate_before_the_p99_rises() -> None:
    points = [point(share, p99) for share, p99 in ((0.1, 10), (0.5, 12), (0.7, 25), (0.9, 80), (1.0, 20))]
    assert knee(by_share(points, "mixed")) == pytest.approx(70)


def test_a_rate_at_which_requests_fail_is_not_kept() -> None:
    curve = by_share([point(0.5, 10), point(0.5, 11, round_=2), point(0.9, 12, failed=1)], "mixed")
    assert [kept for _, _, kept in curve] == [True, False]
    assert curve[0][1] == pytest.approx(10.5)
    assert knee(curve) == pytest.approx(50)


def test_server_scenario_is_the_highest_kept_rate_whose_p99_keeps_the_bound() -> None:
    points = [point(0.5, 40), point(0.9, 99), point(1.0, 150), point(1.15, 60, failed=9)]
    bench = Bench(BenchSettings(p99_bound_ms=100, _cli_parse_args=[]), result(points=points, main="mixed"), Raw())
    bench.settings.workloads = ["mixed"]
    read_curve(bench)
    assert bench.result.scenarios["Server"] == {"per_s": pytest.approx(90), "p99_bound_ms": 100}


def test_a_rate_beyond_the_capacity_is_not_kept_though_it_is_answered_in_the_end() -> None:
    over = point(1.15, 60).model_copy(update={"throughput": 100.0, "requests": 4_600})
    assert [kept for _, _, kept in by_share([point(0.9, 50), over], "mixed")] == [True, False]


def test_schema_is_printed_of_all_that_a_result_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["properties"]) == set(json.loads(result().model_dump_json()))
    assert {"started", "machine", "commit", "settings"} <= set(found["required"])


def test_no_curve_has_no_knee() -> None:
    assert knee([]) == 0.0
    assert knee([(10.0, float("nan"), True)]) == 0.0


def test_knee_does_not_hang_on_the_few_answers_of_the_lowest_rate() -> None:
    rest = [(30.0, 12.0, True), (50.0, 12.0, True), (90.0, 30.0, True), (100.0, 90.0, True)]
    for lowest in (float("nan"), 4.0, 12.0, 200.0 / 9.0):
        assert knee([(10.0, lowest, True), *rest]) == 90.0


def latencies(name: Name, share: float, number: int, tmp_path: Path) -> dict[str, Any]:
    """A window in which so many were answered within 10 ms."""
    times, zeros = np.zeros(number), np.zeros(number, np.int32)
    Rows(times, times, times + 0.01, zeros, zeros, zeros + 1).save(tmp_path / "rows.npz")
    facts = point(share, 10.0).model_copy(update={"workload": name, "requests": number})
    return facts.model_dump(mode="json") | {"rows": str(tmp_path / "rows.npz")}


@pytest.mark.parametrize(("number", "values"), [(320, [10.0, 10.0]), (200, [10.0]), (100, [])])
def test_p99_needs_answers_of_a_round_or_of_all_rounds_together(
    number: int, values: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(BenchSettings(workloads=["list"], results=tmp_path, _cli_parse_args=[]), result(notes=[]), Raw())
    monkeypatch.setattr(bench, "offer", lambda name, share, *_: latencies(name, share, number, tmp_path))
    rounds = Rounds(bench, lambda _: None)
    for round_ in (1, 2):
        rounds._offered("list", 0.7, 100.0, round_, 7)
        rounds._keep()
    assert bench.result.workloads["list"].p99_ms_at_70.values == pytest.approx(values)
    assert [np.isnan(one.p99_ms) for one in bench.result.points] == [number < 300] * 2
    assert len(bench.result.notes) == (len(values) == 1)


def test_client_is_the_bottleneck_when_it_is_busy_or_behind() -> None:
    assert bottleneck(busy=0.5, max_busy=0.9, late_p50_ms=0.1, max_late_ms=5.0) == ""
    assert "of its core" in bottleneck(busy=0.95, max_busy=0.9, late_p50_ms=0.1, max_late_ms=5.0)
    assert "late" in bottleneck(busy=0.5, max_busy=0.9, late_p50_ms=20.0, max_late_ms=5.0)


@pytest.mark.parametrize(("late_ms", "p99_ms", "is_late"), [(6, 20, True), (4, 20, False), (0.9, 1, False)])
def test_client_is_the_bottleneck_when_its_lateness_is_much_of_the_p99(
    late_ms: float, p99_ms: float, is_late: bool
) -> None:
    """The median may be fine: 49 % of the sends are then."""
    assert ("one of 100 sends" in bottleneck(0.5, 0.9, 0.1, 5.0, late_ms=late_ms, p99_ms=p99_ms)) == is_late


def test_metrics_between_two_scrapes() -> None:
    def at(jobs: float, batches: float, hits: float, misses: float) -> Scrape:
        values = {
            ("swiftrec_batch_jobs_sum", "encoder"): jobs,
            ("swiftrec_batch_jobs_count", "encoder"): batches,
            ("swiftrec_padding_ratio_sum", "encoder"): 0.1 * batches,
            ("swiftrec_cache_lookups_total", "hit"): hits,
            ("swiftrec_cache_lookups_total", "miss"): misses,
            ("process_resident_memory_bytes", ""): 2.0**20,
        }
        return Scrape(values, {("swiftrec_batch_jobs", "encoder"): {1.0: batches / 2, 2.0: batches}})

    found = between(at(10, 5, 0, 10), at(50, 15, 30, 20))
    assert (found["batch_jobs"], found["padding"], found["cache_hits"]) == pytest.approx((4.0, 0.1, 0.75))
    assert batch_sizes(at(10, 5, 0, 0), at(50, 15, 0, 0)) == {"1": 5.0, "2": 5.0}


def test_result_survives_its_file_with_figures_that_are_not_there(tmp_path: Path) -> None:
    written = result(points=[point(0.5, float("nan"))])
    store.save(tmp_path, written)
    assert "NaN" not in (tmp_path / store.RESULT).read_text()
    loaded = store.load(tmp_path)
    assert np.isnan(loaded.points[0].p99_ms)
    assert loaded.workloads == written.workloads


def test_what_is_no_result_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no result"):
        store.load(tmp_path)
    (tmp_path / store.RESULT).write_text('{"started": 3}')
    with pytest.raises(RuntimeError, match="started"):
        store.load(tmp_path)


def test_a_bottleneck_makes_the_run_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "load", lambda *_, **__: {"bottleneck": "the client is the bottleneck", "failed": 0})
    for size, failures in (("full", ["mixed, open loop: the client is the bottleneck"]), ("smoke", [])):
        bench = Bench(BenchSettings(size=size, results=tmp_path, _cli_parse_args=[]), result(), Raw())
        bench.offer("mixed", 1.0, 100.0, 7)
        assert bench.result.failures == failures


def test_percentiles_at_70_percent_of_the_lucky_ones_make_the_run_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"bottleneck": "", "failed": 0, "requests": 100, "refused": 0}
    bench = Bench(BenchSettings(results=tmp_path, _cli_parse_args=[]), result(), Raw())
    steps: list[tuple[Name, float, dict[str, int]]] = [
        ("mixed", 0.7, {"failed": 2}),
        ("mixed", 0.7, {"failed": 1}),
        ("mixed", 1.15, {"failed": 50}),
        ("list", 0.7, {"refused": 33}),
        ("list", 0.7, {"refused": 32}),
    ]
    for name, share, found in steps:
        monkeypatch.setattr(measure, "load", lambda *_, found=found, **__: refused | found)
        bench.offer(name, share, 100.0, 7)
    assert bench.result.failures == [
        f"{name}, open loop at 70%: the server refused more than 1% of what was asked" for name in ("mixed", "list")
    ]


def test_floor_is_of_texts_as_long_as_those_that_were_answered() -> None:
    offline = Offline(encode_us=1_000.0, rest_us=200.0, tokens=20.0)
    assert [offline.for_texts(tokens) for tokens in (20.0, 22.0, 0.0)] == pytest.approx([1_200.0, 1_300.0, 1_200.0])
    assert Offline(0.0, 200.0, 0.0).for_texts(5.0) == 200.0
    assert Offline(1_000.0, 200.0, 20.0, grows=0.5).for_texts(22.0) == pytest.approx(1_250.0), "half is paid per text"


def test_what_repeats_is_asked_of_the_server_with_a_cache() -> None:
    bench = Bench(BenchSettings(_cli_parse_args=[]), result(), Raw())
    bench.server, bench.cached = Served("plain", None), Served("cached", None)
    assert {name: bench.of(name).address for name in KINDS} == {
        name: "cached" if name == "hot" else "plain" for name in KINDS
    }


def test_cache_is_off_unless_the_workload_repeats_or_a_flag_says_so() -> None:
    assert more_flags("bert3-int8", "--sessions 1", has_cache=False) == [
        "--variant", "bert3-int8", "--cache-mb", "0", "--sessions", "1"
    ]  # fmt: skip
    assert more_flags(None, "", has_cache=True) == []
    assert more_flags(None, "--cache-mb=8", has_cache=False) == ["--cache-mb=8"]
    with pytest.raises(RuntimeError, match="another model"):
        more_flags(None, "--variant static", has_cache=False)


def test_terminal_says_where_the_cache_is_off() -> None:
    on, off = (workload().model_copy(update={"has_cache": has, "cache_hits": repeated(0.5)}) for has in (True, False))
    lines = terminal.block(result(workloads={"hot": on, "mixed": off})).splitlines()
    assert next(line for line in lines if line.startswith("hot v1")).endswith("0.50")
    assert next(line for line in lines if line.startswith("mixed v1")).endswith("off")


def test_full_disk_leaves_a_partial_result_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "rows.parquet")

    bench = Bench(BenchSettings(results=tmp_path, _cli_parse_args=[]), result(), Raw())
    monkeypatch.setattr(Raw, "write", full)
    folder = _report(bench)
    assert folder is not None
    assert store.load(folder).is_partial
    assert bench.result.is_partial
    assert "the disk is full at rows.parquet" in bench.result.reason


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save(tmp_path, result())

    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="No space"):
        store.save(tmp_path, result(commit="later"))
    assert store.load(tmp_path).commit == "abc"
    assert [path.name for path in tmp_path.iterdir()] == [store.RESULT]


def test_errors_are_sentences() -> None:
    assert sentence(RuntimeError("it ended")) == "it ended"
    assert "disk is full" in sentence(OSError(errno.ENOSPC, "x"))


def test_a_missing_extra_names_itself() -> None:
    with pytest.raises(RuntimeError, match=r"bench\]"):
        need("no_such_package_of_ours")
