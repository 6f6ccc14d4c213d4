"""Each tool writes one file; summary and targets read the newest of each that fits, and name what they ignore."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.catalogue.result import CatalogueResult
from swiftrec.benchmarks.peers.command import best_settings
from swiftrec.benchmarks.peers.results import PeerSettingsResult, PeersResult
from swiftrec.benchmarks.result_files import SCHEMA, ToolResult
from swiftrec.benchmarks.statistics import RequestRows
from swiftrec.benchmarks.suite.compare import newest
from swiftrec.benchmarks.suite.overview import newest_results
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.results import RawRows
from swiftrec.benchmarks.suite.summary import SummarySettings, figures
from swiftrec.benchmarks.suite.summary import run as summary
from swiftrec.benchmarks.suite.targets import promises
from swiftrec.benchmarks.teacher import TeacherResult
from swiftrec.promise import Promise
from tests.benchmarks.peers import BUNDLE_ID
from tests.benchmarks.results import (
    BUNDLE,
    MACHINE,
    catalogue_result,
    catalogue_row,
    peer,
    peers_result,
    point,
    result,
    save,
    settings_result,
    teacher_result,
)

OTHER = BundleId("b", "2", "77")
BOTH = (str(BUNDLE_ID), str(OTHER))
OTHER_BUNDLE = BUNDLE | OTHER.fields()


def run_summary(results: Path, *, as_json: bool = True) -> int:
    return summary(SummarySettings(json=as_json, results=results, _cli_parse_args=[]))


def sources(results: Path) -> dict[str, str]:
    """The folder of each result that is used."""
    return newest_results(results).folders


def lines(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    """Lines of stderr about a result."""
    return [line for line in capsys.readouterr().err.splitlines() if str(folder) in line]


def one_promise(results: Path, name: str) -> Promise:
    (promise,) = [promise for promise in promises(results) if promise.name == name]
    return promise


def test_each_tool_has_its_own_file() -> None:
    kinds: list[type[ToolResult]] = [Result, PeersResult, PeerSettingsResult, CatalogueResult, TeacherResult]
    files = {kind.file for kind in kinds}
    assert files == {"bench.json", "peers.json", "peer-settings.json", "catalogue.json", "teacher.json"}


def test_summary_has_the_newest_file_of_each_tool(tmp_path: Path) -> None:
    save(tmp_path, "2026-01-01", result(), peers_result([peer("mosec")]), teacher_result())
    save(tmp_path, "2026-01-02", catalogue_result())
    skipped = {"ray": "it does not install"}
    save(tmp_path, "2026-01-03", peers_result([peer("pytriton")], skipped=skipped))
    assert sources(tmp_path) == {
        "run": "2026-01-01", "peers": "2026-01-03", "catalogue": "2026-01-02", "teacher": "2026-01-01"
    }  # fmt: skip
    values = figures(newest_results(tmp_path))
    assert values["catalogue"][0]["items"] == 1_000
    assert values["peers_skipped"] == skipped
    assert values["req_per_s_core"] == {"pytriton as documented": {"bert3-int8": 500.0}}
    assert values["work_ratio"] == {"mixed": pytest.approx(0.92)}


def test_raw_rows_can_be_read_again(tmp_path: Path) -> None:
    raw, points = RawRows(), [point(0.5, 1.0), point(0.7, 1.0)]
    for number, window in enumerate(points):
        times = np.arange(4.0)
        raw.add(RequestRows(times, times, times + number + 1, *(np.zeros(4, np.int32) for _ in range(3))), window)
    raw.write(tmp_path)
    again = RawRows.load(tmp_path, points)
    assert again.latencies("mixed", 0.7).tolist() == raw.latencies("mixed", 0.7).tolist() == [2_000.0] * 4
    assert len(RawRows.load(tmp_path / "nothing", points).latencies("mixed", 0.7)) == 0


def test_summary_as_json_has_the_promised_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "a", result())
    assert run_summary(tmp_path) == 0
    keys = {"machine", "commit", "work_ratio", "req_per_s_core", "p99_ms_at_70", "peers_skipped", "catalogue"}
    assert set(json.loads(capsys.readouterr().out)) == keys | {"peers_partial"}
    save(tmp_path, "a", result(failures=["the client is the bottleneck"]))
    assert run_summary(tmp_path) == 1
    assert "the client is the bottleneck" in capsys.readouterr().err


def test_figures_in_one_map_are_of_one_job_by_one_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "a", result())
    for targets, clock in (
        ({"swiftrec"}, "*mixed* and *list*, per CPU second"),
        ({"swiftrec as documented", "mosec as documented"}, "one job, by the clock"),
    ):
        values = figures(newest_results(tmp_path))
        assert set(values["req_per_s_core"]) == set(values["p99_ms_at_70"]) == targets
        assert run_summary(tmp_path, as_json=False) == 0
        printed = capsys.readouterr()
        assert printed.out.rstrip().endswith(clock)
        assert printed.err == ""
        save(tmp_path, "a", peers_result([peer("swiftrec"), peer("mosec")]))


def test_results_of_another_commit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "2026-01-01-a", peers_result([peer("mosec")], commit="old"))
    save(tmp_path, "2026-01-02-b", result(commit="new"), catalogue_result(commit="new"))
    assert run_summary(tmp_path) == 0
    errors = capsys.readouterr().err
    assert "peers: from 2026-01-01-a, commit old, not new" in errors
    assert "catalogue" not in errors


def test_a_smoke_run_is_used_only_if_there_is_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, size in (("2026-01-02-b", "smoke"), ("2026-01-01-a", "full")):
        save(tmp_path, name, result(settings={"size": size}))
        assert run_summary(tmp_path) == (1 if size == "smoke" else 0)
        assert ("only a smoke run" in capsys.readouterr().err) is (size == "smoke")
    assert sources(tmp_path) == {"run": "2026-01-01-a"}


def test_peers_are_of_the_same_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, "2026-01-01-a", peers_result([peer("mosec")]))
    other = save(tmp_path, "2026-01-02-b", peers_result([peer("ray")], machine=MACHINE | {"cpu": "Other"}))
    save(tmp_path, "2026-01-03-c", result())
    assert sources(tmp_path) == {"run": "2026-01-03-c", "peers": "2026-01-01-a"}
    assert "measured on Other, not on Test (family 1)" in lines(capsys, other)[0]


@pytest.mark.parametrize("content", ["{", '{"started": 3}', "other format"])
def test_a_result_that_cannot_be_read_is_named_and_ignored(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(tmp_path / "elsewhere", "base", result())
    good = save(tmp_path, "2026-01-01-good", result())
    bad = save(tmp_path, "2026-01-02-bad") / Result.file
    other = result(schema_version=SCHEMA + 1).model_dump_json()
    bad.write_text(other if content == "other format" else content)
    assert sources(tmp_path) == {"run": good.name}
    assert capsys.readouterr().err.count(f"ignored: {bad}: ") == 1, "once"
    assert newest(tmp_path, base, result()) == good


def test_a_result_of_an_older_format_says_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, "a", result(schema_version=1))
    with pytest.raises(RuntimeError, match=r"written in format 1, this is 2: measure again"):
        result_files.load(tmp_path / "a", Result)


def test_results_of_another_bundle_are_ignored_and_both_bundles_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "2026-01-01", peers_result([peer("mosec")]))
    other = save(tmp_path, "2026-01-02", peers_result([peer("mosec")], bundle=OTHER_BUNDLE))
    save(tmp_path, "2026-01-03", result())
    assert sources(tmp_path) == {"run": "2026-01-03", "peers": "2026-01-01"}
    (line,) = lines(capsys, other)
    assert all(bundle in line for bundle in BOTH)


def test_targets_ignore_results_of_another_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [asdict(catalogue_row()) | {"items": 1_000_000, "index": "approximate"}]
    other = save(tmp_path, "2026-01-01", catalogue_result(rows, bundle=OTHER_BUNDLE))
    save(tmp_path, "2026-01-02", result())
    name = "recall@100 at 1,000,000 items, worst filter"
    assert one_promise(tmp_path, name).verdict.startswith("not measured")
    (line,) = lines(capsys, other)
    assert all(bundle in line for bundle in BOTH)
    save(tmp_path, "2026-01-02", catalogue_result(rows))
    assert one_promise(tmp_path, name).values


def test_targets_name_a_smoke_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = BUNDLE | {"default": "int8"}
    save(tmp_path, "2026-01-01", result(bundle=bundle))
    smoke = save(tmp_path, "2026-01-02", result(bundle=bundle, settings={"size": "smoke"}))
    assert one_promise(tmp_path, "work ratio, default student, mixed").source == "2026-01-01"
    assert len(lines(capsys, smoke)) == 1


def test_best_settings_are_the_newest_of_each_server_on_this_machine_with_this_bundle(tmp_path: Path) -> None:
    def tried(*servers: str) -> list[dict[str, Any]]:
        return [{"target": server, "variant": "int8", "number": n} for n, server in enumerate(servers)]

    like = peers_result([])
    save(tmp_path, "2026-01-01", settings_result(tried("mosec", "ray", "ray")))
    save(tmp_path, "2026-01-02", settings_result([*tried("mosec"), *tried("mosec")]))
    save(tmp_path, "2026-01-03", settings_result(tried("ray"), machine=MACHINE | {"cpu": "Other"}))
    save(tmp_path, "2026-01-04", settings_result(tried("ray"), bundle=OTHER_BUNDLE))
    (save(tmp_path, "2026-01-05") / PeerSettingsResult.file).write_text("{")
    best = [(row["target"], row["number"]) for row in best_settings(tmp_path, like)]
    assert sorted(best) == [("mosec", 0), ("mosec", 0), ("ray", 1), ("ray", 2)]
    assert best_settings(tmp_path / "nothing", like) == []


def test_a_result_without_an_export_key_is_ignored_as_of_an_unknown_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = save(tmp_path, "2026-01-02", result(bundle={"name": "b", "version": "1", "variant": "int8"}))
    save(tmp_path, "2026-01-01", result())
    assert sources(tmp_path) == {"run": "2026-01-01"}
    assert "its bundle is unknown" in lines(capsys, old)[0]
    with pytest.raises(RuntimeError, match=r"its bundle is unknown, since it names no export key: measure again"):
        result_files.load(old, Result)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"settings": {"size": "smoke"}}, "a smoke run"),
        ({"is_partial": True, "reason": "it was interrupted"}, "partial: it was interrupted"),
        ({"failures": ["the client is the bottleneck"]}, "not valid: the client is the bottleneck"),
    ],
)
def test_summary_has_the_newest_full_run_and_names_newer_ones(
    tmp_path: Path, changed: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = save(tmp_path, "2026-01-02", result(**changed))
    assert run_summary(tmp_path) == 1, "there is no other"
    assert lines(capsys, newer) == []
    save(tmp_path, "2026-01-01", result())
    assert run_summary(tmp_path) == 0
    assert sources(tmp_path)["run"] == "2026-01-01"
    assert reason in lines(capsys, newer)[0]


@pytest.mark.parametrize("make", [teacher_result, catalogue_result, lambda **changed: peers_result([], **changed)])
def test_a_partial_result_hides_no_complete_one(
    tmp_path: Path, make: Callable[..., ToolResult], capsys: pytest.CaptureFixture[str]
) -> None:
    newer = save(tmp_path, "2026-01-02", result(), make(is_partial=True, reason="the server ended"))
    (name,) = set(sources(tmp_path)) - {"run"}
    assert sources(tmp_path)[name] == "2026-01-02"
    save(tmp_path, "2026-01-01", make())
    capsys.readouterr()
    assert sources(tmp_path)[name] == "2026-01-01"
    assert "the server ended" in lines(capsys, newer)[0]


def test_a_comparison_with_some_servers_hides_no_complete_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, "2026-01-01", result(), peers_result([peer("mosec"), peer("ray")], settings={"targets": []}))
    newer = save(tmp_path, "2026-01-02", peers_result([peer("mosec")], settings={"targets": ["mosec"]}))
    assert sources(tmp_path)["peers"] == "2026-01-01"
    assert "only mosec was measured" in lines(capsys, newer)[0]
