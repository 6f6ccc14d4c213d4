"""What is measured apart joins the result: its summary and its report have it from then on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.suite import html, store
from swiftrec.benchmarks.suite.aims import aims
from swiftrec.benchmarks.suite.compare import newest
from swiftrec.benchmarks.suite.digest import SummaryConfig, digest
from swiftrec.benchmarks.suite.digest import run as summary
from swiftrec.benchmarks.suite.joined import join, merged
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.result import SCHEMA, Peers
from swiftrec.benchmarks.summary import Rows
from tests.benchmarks.peers import BUNDLE_ID
from tests.benchmarks.results import BUNDLE, MACHINE, catalogue_row, peer, point, result, workload


def test_sections_measured_apart_join_the_newest_run_and_the_summary(tmp_path: Path) -> None:
    folder = join("catalogue", [asdict(catalogue_row())], tmp_path, BUNDLE_ID)
    measured = {"rows": [peer("pytriton")], "skipped": {"ray": "it does not install"}}
    assert join("peers", measured, tmp_path, BUNDLE_ID) == folder
    ours = store.load(folder)
    store.save(folder, ours.model_copy(update={"workloads": {"mixed": workload()}, "bundle": BUNDLE}))
    found = digest(tmp_path)
    assert found["catalogue"][0]["items"] == 1_000
    assert found["peers_skipped"] == {"ray": "it does not install"}
    assert found["req_per_s_core"] == {"pytriton as documented": {"bert3-int8": 500.0}}
    assert found["work_ratio"] == {"mixed": pytest.approx(0.92)}


def test_report_is_written_again_with_what_joined_it(tmp_path: Path) -> None:
    raw, machine = Raw(), fingerprint()
    folder = store.new_folder(tmp_path, machine)
    kept = point(0.7, 10.0)
    raw.add(Rows(*(np.arange(3.0) + n for n in range(3)), *(np.zeros(3, np.int32) for _ in range(3))), kept)  # type: ignore[arg-type]
    store.save(folder, result(machine=machine, commit=machine["commit"], points=[kept], main="mixed"))
    raw.write(folder)
    assert (
        join("peers", {"rows": [peer("pytriton")], "skipped": {"ray": "it does not install"}}, tmp_path, BUNDLE_ID)
        == folder
    )
    join("catalogue", [asdict(catalogue_row())], tmp_path, BUNDLE_ID)
    join("teacher", {"rate_ratio": [9.0, 11.0], "cpu_ratio": [6.0], "p99_bound_ms": 100.0}, tmp_path, BUNDLE_ID)
    page = (folder / html.REPORT).read_text()
    assert "pytriton" in page
    assert "ray: not measured: it does not install" in page
    assert "recall@100" in page
    assert "student / PyTorch teacher: 10.00 (9.00-11.00)" in page
    assert "70% of capacity" in page, "the raw rows are read again"


def test_raw_rows_come_back_from_their_file(tmp_path: Path) -> None:
    raw, points = Raw(), [point(0.5, 1.0), point(0.7, 1.0)]
    for number, one in enumerate(points):
        times = np.arange(4.0)
        raw.add(Rows(times, times, times + number + 1, *(np.zeros(4, np.int32) for _ in range(3))), one)
    raw.write(tmp_path)
    again = Raw.load(tmp_path, points)
    assert again.latencies("mixed", 0.7).tolist() == raw.latencies("mixed", 0.7).tolist() == [2_000.0] * 4
    assert len(Raw.load(tmp_path / "nothing", points).latencies("mixed", 0.7)) == 0


def test_peers_of_one_variant_do_not_replace_those_of_another() -> None:
    old = Peers.of([peer("mosec"), peer("ray", "static")], {"bentoml": "no"}, [])
    found = merged(old, Peers.of([peer("bentoml", "static")], {"ray": "it does not start"}, []))
    assert [(row["target"], row["variant"]) for row in found.rows] == [("mosec", "bert3-int8"), ("bentoml", "static")]
    assert found.skipped == {"ray": "it does not start"}
    assert set(found.req_per_s_core) == {"mosec as documented", "bentoml as documented"}
    tried = merged(found, Peers(tries=[{"target": "mosec", "variant": "static", "tried": "16 within 1 ms"}]))
    assert tried.rows == found.rows
    assert tried.skipped == found.skipped
    assert len(tried.tries) == 1


def test_what_died_is_forgotten_once_its_variant_was_measured_again() -> None:
    died = {"int8, mosec, split": "ended with exit code 3", "static, ray, split": "ended"}
    old = Peers.of([peer("mosec", "int8")], died | {"bentoml": "does not install"}, [])
    again = merged(old, Peers.of([peer("mosec", "int8")], {}, []))
    assert again.skipped == {"static, ray, split": "ended", "bentoml": "does not install"}
    still = merged(old, Peers.of([peer("mosec", "int8")], {"int8, mosec, split": "ended again"}, []))
    assert still.skipped["int8, mosec, split"] == "ended again"


def test_summary_as_json_has_the_keys_that_are_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    store.save(tmp_path / "a", result())
    settings = SummaryConfig(json=True, results=tmp_path, _cli_parse_args=[])
    assert summary(settings) == 0
    keys = {"machine", "commit", "work_ratio", "req_per_s_core", "p99_ms_at_70", "peers_skipped", "catalogue"}
    assert set(json.loads(capsys.readouterr().out)) == keys | {"peers_partial"}
    store.save(tmp_path / "a", result(failures=["the client is the bottleneck"]))
    assert summary(settings) == 1
    assert "the client is the bottleneck" in capsys.readouterr().err


def test_summary_has_one_job_and_one_clock_in_a_map_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    both = Peers.of([peer("swiftrec"), peer("mosec")], {}, [])
    for found, targets, clock in (
        (result(peers=both), {"swiftrec as documented", "mosec as documented"}, "one job, by the clock"),
        (result(), {"swiftrec"}, "*mixed* and *list*, per CPU second"),
    ):
        store.save(tmp_path / "a", found)
        for figure in ("req_per_s_core", "p99_ms_at_70"):
            assert set(digest(tmp_path)[figure]) == targets
        assert summary(SummaryConfig(results=tmp_path, _cli_parse_args=[])) == 0
        said = capsys.readouterr()
        assert said.out.rstrip().endswith(clock)
        assert said.err == ""


def test_sizes_that_were_measured_again_replace_their_own_rows_and_a_cut_off_run_hides_no_whole_one(
    tmp_path: Path,
) -> None:
    def rows(*sizes: int, **more: str) -> list[dict[str, Any]]:
        return [asdict(replace(catalogue_row(), items=size)) | more for size in sizes]

    folder = join("catalogue", rows(1_000, 2_000_000), tmp_path, BUNDLE_ID)
    join("catalogue", rows(1_000, 10_000, partial="it was interrupted"), tmp_path, BUNDLE_ID)
    found = [(row["items"], "partial" in row) for row in store.load(folder).catalogue]
    assert found == [(1_000, True), (10_000, True), (2_000_000, False)]
    for name, kept in (("a", rows(5, partial="it was interrupted")), ("b", []), ("0", rows(7))):
        (tmp_path / "other" / name).mkdir(parents=True)
        store.save(tmp_path / "other" / name, result(catalogue=kept))
    assert [row["items"] for row in digest(tmp_path / "other")["catalogue"]] == [7]


def test_summary_says_what_is_from_another_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [asdict(catalogue_row())]
    for name, found in (
        ("2026-01-01-a", result(commit="old", peers=Peers.of([peer("mosec")], {}, []))),
        ("2026-01-02-b", result(commit="new", catalogue=rows)),
    ):
        (tmp_path / name).mkdir()
        store.save(tmp_path / name, found)
    assert summary(SummaryConfig(json=True, results=tmp_path, _cli_parse_args=[])) == 0
    said = capsys.readouterr().err
    assert "peers: from 2026-01-01-a, commit old, and not new" in said
    assert "catalogue" not in said


def test_summary_takes_no_smoke_run_while_there_is_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SummaryConfig(json=True, results=tmp_path, _cli_parse_args=[])
    for name, size in (("2026-01-02-b", "smoke"), ("2026-01-01-a", "full")):
        (tmp_path / name).mkdir()
        store.save(tmp_path / name, result(settings={"size": size}))
        assert summary(settings) == (1 if size == "smoke" else 0)
        assert ("only a smoke run" in capsys.readouterr().err) is (size == "smoke")
    assert digest(tmp_path)["sources"] == {"run": "2026-01-01-a"}


def test_summary_takes_peers_from_an_older_run_of_the_same_machine(tmp_path: Path) -> None:
    for name, changed in (
        ("2026-01-01-a", {"peers": {"req_per_s_core": {"mosec": {"int8": 1.0}}}}),
        ("2026-01-02-b", {"machine": MACHINE | {"cpu": "Other"}, "peers": {"req_per_s_core": {"no": {"int8": 1.0}}}}),
        ("2026-01-03-c", {}),
    ):
        (tmp_path / name).mkdir()
        store.save(tmp_path / name, result(**changed))
    found = digest(tmp_path)
    assert set(found["req_per_s_core"]) == {"mosec"}
    assert found["sources"] == {"run": "2026-01-03-c", "peers": "2026-01-01-a"}


@pytest.mark.parametrize("content", ["{", '{"started": 3}', "other format"])
def test_a_result_that_cannot_be_read_is_named_and_left_out(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine, good, bad = fingerprint(), tmp_path / "2026-01-01-good", tmp_path / "2026-01-02-bad"
    saved_base = tmp_path / "elsewhere" / "base"
    for folder in (good, bad, saved_base):
        folder.mkdir(parents=True)
    store.save(saved_base, result(machine=machine))
    store.save(good, result(machine=machine, commit=machine["commit"]))
    other = result(schema_version=SCHEMA + 1).model_dump_json()
    (bad / store.RESULT).write_text(other if content == "other format" else content)
    assert digest(tmp_path)["sources"] == {"run": good.name}
    assert capsys.readouterr().err.count(f"left out: {bad / store.RESULT}: ") == 1, "once, not for every part"
    assert newest(tmp_path, saved_base, result(machine=machine)) == good
    assert list(aims(tmp_path))
    assert join("catalogue", [asdict(catalogue_row())], tmp_path, BUNDLE_ID) == good
    assert capsys.readouterr().err.count(f"left out: {bad / store.RESULT}: ") == 3
