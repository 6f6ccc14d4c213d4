"""The figures of a run, and its time budget: the first round ends with it, a later one starts only if it fits."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import result_files, server_process
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.formatting import Table
from swiftrec.benchmarks.optional_deps import error_sentence, require_module
from swiftrec.benchmarks.prometheus import ScrapedMetrics, batch_sizes, metrics_between
from swiftrec.benchmarks.server_process import ServerProcess, extra_flags
from swiftrec.benchmarks.statistics import RequestRows, Summary
from swiftrec.benchmarks.suite.compare import incomparable
from swiftrec.benchmarks.suite.context import BenchContext
from swiftrec.benchmarks.suite.curve import CurvePoint, by_share, knee, read_curve
from swiftrec.benchmarks.suite.result import Point, Result
from swiftrec.benchmarks.suite.results import RawRows
from swiftrec.benchmarks.suite.rounds import OfflineCost, Rounds
from swiftrec.benchmarks.suite.run import _write_report, text
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.window import bottleneck
from swiftrec.benchmarks.workload import WORKLOADS, Name
from tests.benchmarks.results import BUNDLE, MACHINE, point, repeated, result, workload
from tests.conftest import ROOT


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
    bench = BenchContext(
        BenchSettings(p99_bound_ms=100, _cli_parse_args=[]), result(points=points, main="mixed"), RawRows()
    )
    bench.settings.workloads = ["mixed"]
    read_curve(bench)
    assert bench.result.bound_per_s == pytest.approx(90)


def test_a_rate_beyond_the_capacity_is_not_kept_though_it_is_answered_in_the_end() -> None:
    over = point(1.15, 60).model_copy(update={"throughput": 100.0, "requests": 4_600})
    assert [kept for _, _, kept in by_share([point(0.9, 50), over], "mixed")] == [True, False]


def test_schema_is_printed_of_all_that_a_result_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert set(values["properties"]) == set(json.loads(result().model_dump_json()))
    assert {"started", "machine", "commit"} <= set(values["required"])


def test_no_curve_has_no_knee() -> None:
    assert knee([]) == 0.0
    assert knee([CurvePoint(10.0, float("nan"), True)]) == 0.0


def test_knee_does_not_hang_on_the_few_answers_of_the_lowest_rate() -> None:
    rest = [CurvePoint(r, p99, True) for r, p99 in ((30.0, 12.0), (50.0, 12.0), (90.0, 30.0), (100.0, 90.0))]
    for lowest in (float("nan"), 4.0, 12.0, 200.0 / 9.0):
        assert knee([CurvePoint(10.0, lowest, True), *rest]) == 90.0


def latencies(name: Name, share: float, number: int, tmp_path: Path) -> dict[str, Any]:
    """A window in which `number` requests were answered within 10 ms."""
    times, zeros = np.zeros(number), np.zeros(number, np.int32)
    RequestRows(times, times, times + 0.01, zeros, zeros, zeros + 1).save(tmp_path / "rows.npz")
    facts = point(share, 10.0).model_copy(update={"workload": name, "requests": number})
    return facts.model_dump(mode="json") | {"rows": str(tmp_path / "rows.npz")}


@pytest.mark.parametrize(("number", "values"), [(320, [10.0, 10.0]), (200, [10.0]), (100, [])])
def test_p99_needs_answers_of_a_round_or_of_all_rounds_together(
    number: int, values: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = BenchContext(
        BenchSettings(workloads=["list"], results=tmp_path, _cli_parse_args=[]), result(notes=[]), RawRows()
    )
    monkeypatch.setattr(bench, "offer", lambda name, share, *_: latencies(name, share, number, tmp_path))
    rounds = Rounds(bench, lambda _: None)
    for round_ in (1, 2):
        rounds._offered("list", 0.7, 100.0, round_, 7)
        rounds._keep()
    assert bench.result.workloads["list"].p99_ms_at_70.values == pytest.approx(values)
    assert [np.isnan(point.p99_ms) for point in bench.result.points] == [number < 300] * 2
    assert len(bench.result.notes) == (len(values) == 1)


def late_client(late_p50_ms: float = 0.1, late_ms: float = 0.0, p99_ms: float = 20.0) -> Summary:
    zeros: dict[str, Any] = dict.fromkeys((field.name for field in fields(Summary)), 0)
    return Summary(**(zeros | {"late_p50_ms": late_p50_ms, "late_ms": late_ms, "p99_ms": p99_ms}))


def test_client_is_the_bottleneck_when_it_is_busy_or_behind() -> None:
    assert bottleneck(late_client(), busy=0.5, max_busy=0.9, max_late_ms=5.0) == ""
    assert "of its core" in bottleneck(late_client(), busy=0.95, max_busy=0.9, max_late_ms=5.0)
    assert "late" in bottleneck(late_client(late_p50_ms=20.0), busy=0.5, max_busy=0.9, max_late_ms=5.0)


@pytest.mark.parametrize(
    ("late_ms", "p99_ms", "is_late"), [(6, 20, True), (4, 20, False), (0.9, 1, False), (2, float("nan"), True)]
)
def test_client_is_the_bottleneck_when_its_lateness_is_much_of_the_p99(
    late_ms: float, p99_ms: float, is_late: bool
) -> None:
    """The median may be fine: 49 % of the sends are then."""
    summary = late_client(late_ms=late_ms, p99_ms=p99_ms)
    assert ("1 % of the sends" in bottleneck(summary, 0.5, 0.9, 5.0)) == is_late


def test_metrics_between_two_scrapes() -> None:
    def at(texts: float, batches: float, hits: float, misses: float) -> ScrapedMetrics:
        values = {
            ("swiftrec_batch_size_sum", "encoder"): texts,
            ("swiftrec_batch_size_count", "encoder"): batches,
            ("swiftrec_padding_ratio_sum", "encoder"): 0.1 * batches,
            ("swiftrec_cache_lookups_total", "hit"): hits,
            ("swiftrec_cache_lookups_total", "miss"): misses,
            ("process_resident_memory_bytes", ""): 2.0**20,
        }
        return ScrapedMetrics(values, {("swiftrec_batch_size", "encoder"): {1.0: batches / 2, 2.0: batches}})

    result = metrics_between(at(10, 5, 0, 10), at(50, 15, 30, 20))
    assert (result["batch_jobs"], result["padding"], result["cache_hits"]) == pytest.approx((4.0, 0.1, 0.75))
    assert batch_sizes(at(10, 5, 0, 0), at(50, 15, 0, 0)) == {"1": 5.0, "2": 5.0}


def test_result_survives_its_file_with_figures_that_are_not_there(tmp_path: Path) -> None:
    written = result(points=[point(0.5, float("nan"))])
    result_files.save(tmp_path, written)
    assert "NaN" not in (tmp_path / Result.file).read_text()
    loaded = result_files.load(tmp_path, Result)
    assert np.isnan(loaded.points[0].p99_ms)
    assert loaded.workloads == written.workloads


def test_what_is_no_result_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no result"):
        result_files.load(tmp_path, Result)
    (tmp_path / Result.file).write_text('{"started": 3}')
    with pytest.raises(RuntimeError, match="started"):
        result_files.load(tmp_path, Result)


def test_a_bottleneck_makes_the_run_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server_process, "run_load_tool", lambda *_, **__: {"bottleneck": "the client is the bottleneck", "failed": 0}
    )
    for size, failures in (("full", ["mixed, open loop: the client is the bottleneck"]), ("smoke", [])):
        bench = BenchContext(BenchSettings(size=size, results=tmp_path, _cli_parse_args=[]), result(), RawRows())
        bench.offer("mixed", 1.0, 100.0, 7)
        assert bench.result.failures == failures


def test_percentiles_at_70_percent_of_the_lucky_ones_make_the_run_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {"bottleneck": "", "failed": 0, "requests": 100, "rejected": 0}
    bench = BenchContext(BenchSettings(results=tmp_path, _cli_parse_args=[]), result(), RawRows())
    steps: list[tuple[Name, float, dict[str, int]]] = [
        ("mixed", 0.7, {"failed": 2}),
        ("mixed", 0.7, {"failed": 1}),
        ("mixed", 1.15, {"failed": 50}),
        ("list", 0.7, {"rejected": 33}),
        ("list", 0.7, {"rejected": 32}),
    ]
    for name, share, values in steps:
        monkeypatch.setattr(server_process, "run_load_tool", lambda *_, values=values, **__: refused | values)
        bench.offer(name, share, 100.0, 7)
    assert bench.result.failures == [
        f"{name}, open loop at 70%: the server rejected more than 1% of the requests" for name in ("mixed", "list")
    ]


def test_floor_is_of_texts_as_long_as_those_that_were_answered() -> None:
    offline = OfflineCost(encode_us=1_000.0, rest_us=200.0, tokens=20.0)
    assert [offline.for_texts(tokens) for tokens in (20.0, 22.0, 0.0)] == pytest.approx([1_200.0, 1_300.0, 1_200.0])
    assert OfflineCost(0.0, 200.0, 0.0).for_texts(5.0) == 200.0
    assert OfflineCost(1_000.0, 200.0, 20.0, grows=0.5).for_texts(22.0) == pytest.approx(1_250.0), (
        "half is paid per text"
    )


def test_what_repeats_is_asked_of_the_server_with_a_cache() -> None:
    bench = BenchContext(BenchSettings(_cli_parse_args=[]), result(), RawRows())
    bench.server, bench.cached = ServerProcess("plain", None), ServerProcess("cached", None)
    assert {name: bench.server_of(name).address for name in WORKLOADS} == {
        name: "cached" if name == "hot" else "plain" for name in WORKLOADS
    }


def test_cache_is_off_unless_the_workload_repeats_or_a_flag_says_so() -> None:
    assert extra_flags("bert3-int8", "--sessions 1", has_cache=False) == [
        "--variant", "bert3-int8", "--cache-mb", "0", "--sessions", "1"
    ]  # fmt: skip
    assert extra_flags(None, "", has_cache=True) == []
    assert extra_flags(None, "--cache-mb=8", has_cache=False) == ["--cache-mb=8"]
    with pytest.raises(RuntimeError, match="another model"):
        extra_flags(None, "--variant static", has_cache=False)


def test_terminal_says_where_the_cache_is_off() -> None:
    on, off = (workload().model_copy(update={"has_cache": has, "cache_hits": repeated(0.5)}) for has in (True, False))
    lines = text(result(workloads={"hot": on, "mixed": off})).splitlines()
    assert next(line for line in lines if line.startswith("hot v1")).endswith("0.50")
    assert next(line for line in lines if line.startswith("mixed v1")).endswith("off")


def test_column_without_a_figure_is_left_out() -> None:
    table = Table(["name", "a", "b", "c"], [["x", "-", "1", "2"], ["y", "", "-", "3"]], "title")
    assert table.without("c") == Table(["name", "b"], [["x", "1"], ["y", "-"]], "title")


def test_full_disk_leaves_a_partial_result_and_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "rows.parquet")

    bench = BenchContext(BenchSettings(results=tmp_path, _cli_parse_args=[]), result(), RawRows())
    monkeypatch.setattr(RawRows, "write", full)
    folder = _write_report(bench)
    assert folder is not None
    assert result_files.load(folder, Result).is_partial
    assert bench.result.is_partial
    assert "the disk is full at rows.parquet" in bench.result.reason


def test_a_result_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result_files.save(tmp_path, result())

    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="No space"):
        result_files.save(tmp_path, result(commit="later"))
    assert result_files.load(tmp_path, Result).commit == "abc"
    assert [path.name for path in tmp_path.iterdir()] == [Result.file]


def test_errors_are_sentences() -> None:
    assert error_sentence(RuntimeError("it ended")) == "it ended"
    assert "disk is full" in error_sentence(OSError(errno.ENOSPC, "x"))


def test_a_missing_extra_names_itself() -> None:
    with pytest.raises(
        RuntimeError,
        match=r"^the Python package no_such_package_of_ours is not installed: pip install 'swiftrec\[bench\]'$",
    ):
        require_module("no_such_package_of_ours")


_WINDOW_S = 10.0


class ManualClockBench(BenchContext):
    """Each window takes ten seconds on a manual clock."""

    def __init__(self, folder: Path, budget_s: float) -> None:
        self.now = 0.0
        settings = BenchSettings(
            results=folder, workloads=["mixed", "list"], budget_s=budget_s, in_flight=32, _cli_parse_args=[]
        )
        super().__init__(settings, result(workloads={}, is_partial=True), RawRows(), clock=lambda: self.now)

    def saturate(self, *_: Any, **__: Any) -> dict[str, Any]:  # noqa: ANN401
        self.now += _WINDOW_S
        return {"server": {"batch_jobs": 4.0}}

    def offer(self, *_: Any, **__: Any) -> dict[str, Any]:  # noqa: ANN401
        return self.saturate()

    def add_point(self, figures: Mapping[str, Any], **facts: Any) -> Point:  # noqa: ANN401
        made = point(facts.get("share", 0.0), 10.0, facts["round"])
        self.result.points.append(made)
        return made


def windows(bench: BenchContext) -> int:
    return len(bench.result.points)


@pytest.mark.parametrize("fits", [1, 2, 5])
def test_first_round_ends_with_the_budget_and_keeps_its_windows(tmp_path: Path, fits: int) -> None:
    bench = ManualClockBench(tmp_path, fits * _WINDOW_S - 1.0)
    with pytest.raises(RuntimeError, match=r"the first round did not fit into .* give a larger --budget-s"):
        Rounds(bench, lambda _: None).run(3)
    assert windows(bench) == fits
    assert list(bench.result.workloads) == ["mixed", "list"][:fits]
    assert bench.now <= bench.settings.budget_s + _WINDOW_S


def test_whole_rounds_are_measured_while_they_fit(tmp_path: Path) -> None:
    every = (
        2 + len(ManualClockBench(tmp_path, 1.0).size.shares) + 1
    )  # saturations, the curve, the other workload at 70 %
    bench = ManualClockBench(tmp_path, every * _WINDOW_S * 2 + 85.0)
    Rounds(bench, lambda _: None).run(3)
    assert windows(bench) == 2 * every
    assert bench.result.notes == ["2 of 3 rounds: the rest did not fit into the budget"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["bench", "bench-peers"])
def test_bundle_is_exported_first_unless_one_is_given(target: str) -> None:
    recipe = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'bundle="${BUNDLE_TYPED:-$(.venv/bin/swiftrec export' in recipe
    assert '--bundle="$bundle"' in recipe
