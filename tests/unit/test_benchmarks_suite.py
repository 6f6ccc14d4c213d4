"""The report's figures: known points give known knees, regressions are caught, partial results say so."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.catalogue import Row, Search, Whole
from benchmarks.extra import need, sentence
from benchmarks.scrape import Scrape, batch_sizes, between
from benchmarks.suite import readme, store
from benchmarks.suite.bench import Bench
from benchmarks.suite.compare import changes, incomparable
from benchmarks.suite.digest import digest
from benchmarks.suite.raw import Raw
from benchmarks.suite.result import Point, Repeated, Result, Workload
from benchmarks.suite.run import _report
from benchmarks.suite.scenarios import by_share, knee
from benchmarks.suite.settings import BenchSettings
from benchmarks.window import bottleneck

_MACHINE = {"cpu": "Test (family 1)", "cores": "2", "load": "0", "commit": "abc"}


def repeated(*values: float) -> Repeated:
    return Repeated(values=list(values))


def workload(
    floor: float = 1_000.0, server: float = 1_250.0, p99: float = 50.0, noise: float = 0.01, echo: float = 150.0
) -> Workload:
    spread = (1 - noise, 1.0, 1 + noise)
    figures: dict[str, Repeated] = {name: repeated() for name in ("batch_jobs", "padding", "cache_hits")}
    return Workload(
        version=1,
        floor_us=repeated(floor, floor, floor),
        echo_us=repeated(echo, echo, echo),
        server_us=repeated(*(server * n for n in spread)),
        work_ratio=repeated(*((floor + echo) / (server * n) for n in spread)),
        per_s_core=repeated(*(1e6 / (server * n) for n in spread)),
        p99_ms_at_70=repeated(*(p99 * n for n in spread)),
        **figures,
    )


def result(**changed: object) -> Result:
    values: dict[str, Any] = {
        "is_partial": False,
        "reason": "",
        "started": "2026-01-01T00:00:00Z",
        "machine": _MACHINE,
        "commit": "abc",
        "settings": {"size": "full"},
        "bundle": {"name": "b", "variant": "int8"},
        "startup_s": repeated(3.0, 3.1, 3.2),
        "workloads": {"mixed": workload()},
        "scenarios": {"SingleStream": {"p50_ms": 2.0}, "Offline": {"per_s": 400.0}},
    }
    return Result(**(values | changed))


def point(share: float, p99_ms: float, round_: int = 1, failed: int = 0) -> Point:
    return Point(
        workload="mixed", loop="open", pattern="poisson", round=round_, share=share, rate=100 * share, in_flight=0,
        requests=1_000, failed=failed, throughput=100 * share, goodput=0, p50_ms=1, p95_ms=1, p99_ms=p99_ms, p999_ms=1,
        late=0, late_ms=0, busy=0.1, server_us=None, server_busy=None, steps={}, server={},
    )  # fmt: skip


def worse(base: Result, head: Result) -> list[str]:
    return [one.figure for one in changes(base, head) if one.is_worse]


def test_the_same_run_twice_has_no_regression() -> None:
    assert worse(result(), result()) == []


def test_a_server_that_became_slower_is_a_regression() -> None:
    slower = result(workloads={"mixed": workload(server=1_500.0)})
    assert worse(result(), slower) == ["mixed: work ratio", "mixed: server CPU / floor"]


def test_a_slower_machine_is_none() -> None:
    slower = result(workloads={"mixed": workload(1_700.0, 1_700 * 1.25, 50 * 1.7, echo=150 * 1.7)})
    assert worse(result(), slower) == []


def test_a_change_within_the_noise_is_none() -> None:
    noisy, other = (result(workloads={"mixed": workload(server=us, noise=0.1)}) for us in (1_250.0, 1_350.0))
    assert worse(noisy, other) == []


def test_what_became_faster_is_no_regression() -> None:
    assert worse(result(), result(workloads={"mixed": workload(server=1_100.0, p99=30.0)})) == []


def test_runs_of_other_machines_bundles_or_sizes_are_not_compared() -> None:
    assert incomparable(result(), result()) == []
    others: list[dict[str, Any]] = [
        {"machine": _MACHINE | {"cpu": "Other"}},
        {"bundle": {"variant": "fp32"}},
        {"settings": {"size": "smoke"}},
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


def test_no_curve_has_no_knee() -> None:
    assert knee([]) == 0.0


def test_client_is_the_bottleneck_when_it_is_busy_or_behind() -> None:
    assert bottleneck(busy=0.5, max_busy=0.9, late_p50_ms=0.1, max_late_ms=5.0) == ""
    assert "of its core" in bottleneck(busy=0.95, max_busy=0.9, late_p50_ms=0.1, max_late_ms=5.0)
    assert "late" in bottleneck(busy=0.5, max_busy=0.9, late_p50_ms=20.0, max_late_ms=5.0)


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


def test_sections_measured_apart_join_the_newest_run_and_the_summary(tmp_path: Path) -> None:
    folder = store.join("catalogue", [{"items": 1_000}], tmp_path)
    rates = {"req_per_s_core": {"triton": {"int8": 100.0}}, "skipped": {"ray": "it does not install"}}
    assert store.join("peers", rates, tmp_path) == folder
    ours = store.load(folder)
    store.save(folder, ours.model_copy(update={"workloads": {"mixed": workload()}, "bundle": {"variant": "int8"}}))
    found = digest(tmp_path)
    assert found["catalogue"] == [{"items": 1_000}]
    assert found["peers_skipped"] == {"ray": "it does not install"}
    assert set(found["req_per_s_core"]) == {"triton", "swiftrec"}
    assert found["work_ratio"] == {"mixed": pytest.approx(0.92)}


def test_summary_takes_peers_from_an_older_run_of_the_same_machine(tmp_path: Path) -> None:
    for name, changed in (
        ("2026-01-01-a", {"peers": {"req_per_s_core": {"mosec": {"int8": 1.0}}}}),
        ("2026-01-02-b", {"machine": _MACHINE | {"cpu": "Other"}, "peers": {"req_per_s_core": {"no": {"int8": 1.0}}}}),
        ("2026-01-03-c", {}),
    ):
        (tmp_path / name).mkdir()
        store.save(tmp_path / name, result(**changed))
    found = digest(tmp_path)
    assert set(found["req_per_s_core"]) == {"mosec", "swiftrec"}
    assert found["sources"] == {"run": "2026-01-03-c", "peers": "2026-01-01-a"}


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


def test_readme_table_is_replaced_between_its_markers_only() -> None:
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.replaced(text, "new") == f"before\n{readme.BEGIN}\nnew\n{readme.END}\nafter\n"
    with pytest.raises(RuntimeError, match="markers"):
        readme.replaced("nothing", "new")


def test_reference_is_never_a_partial_invalid_or_smoke_run() -> None:
    assert readme.slim(result(), _summary())["commit"] == "abc"
    for changed in ({"is_partial": True}, {"failures": ["x"]}, {"settings": {"size": "smoke"}}):
        with pytest.raises(RuntimeError, match="no reference"):
            readme.slim(result(**changed), _summary())


def test_table_shows_the_figures_of_the_reference() -> None:
    made = readme.table(json.loads(json.dumps(readme.slim(result(), _summary()))))
    assert "| mixed | 1000 + 150 + 100 = 1250 | 0.92 (0.91-0.93) | 800 (792-808) | 50 (50-50) |" in made


def _row() -> Row:
    return Row(1_000, "exact", 1, 0, 10, 0, {"all": Search(0.99512, 0.9, 1, 2)}, {"ids": Whole(1, 2, 1, [1.0, 1.2])})


def test_table_has_peers_catalogue_and_teacher_where_they_were_measured() -> None:
    found = readme.slim(result(), _summary()) | {
        "req_per_s_core": {
            "swiftrec unary": {"int8": 400.0},
            "swiftrec": {"int8": 999.0},
            "mosec": {"int8": 500.0},
            "triton": {"int8": 300.0},
        },
        "p99_ms_at_70": {"mosec": {"int8": 12.0}},
        "peers_skipped": {"ray": "it does not install"},
        "catalogue": [asdict(_row())],
        "teacher": {"rate_ratio": [9.0, 11.0], "cpu_ratio": [4.0], "p99_bound_ms": 100.0},
    }
    made = readme.table(found)
    assert made.index("| mosec | int8 | 500 | 12 |") < made.index("| swiftrec unary | int8 | 400 |  |")
    assert "| ray | not run: it does not install | | |" in made
    assert "| 1,000 | exact | search, all | 0.9951 | 1.00 | 2.00 | |" in made
    assert "| 1,000 | exact | Recommend, ids | | 1.00 | 2.00 | 1.10 (1.00-1.20) |" in made
    assert "999" not in made
    assert "10.0 (9.0-11.0) times the rate" in made


def _summary() -> dict[str, Any]:
    parts: dict[str, Any] = {name: {} for name in ("req_per_s_core", "p99_ms_at_70", "peers_skipped", "teacher")}
    return parts | {"catalogue": [], "sources": {"run": "a"}}
