"""Results of two bundles are never shown as one, and the newest that fits is taken; the others are named."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.suite import joined, store
from swiftrec.benchmarks.suite.aims import aims
from swiftrec.benchmarks.suite.digest import SummaryConfig, digest
from swiftrec.benchmarks.suite.digest import run as summary
from swiftrec.benchmarks.suite.result import Peers
from tests.benchmarks.peers import BUNDLE_ID
from tests.benchmarks.results import BUNDLE, catalogue_row, peer, result

OTHER = BundleId("b", "2", "77")
BOTH = (str(BUNDLE_ID), str(OTHER))


def saved(results: Path, name: str, **changed: object) -> Path:
    folder = results / name
    folder.mkdir(parents=True)
    store.save(folder, result(**changed))
    return folder


def with_peers(**changed: object) -> dict[str, Any]:
    return {"peers": Peers.of([peer("mosec")], {}, []), **changed}


def lines(capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    """What was said of a result on stderr."""
    return [line for line in capsys.readouterr().err.splitlines() if str(folder) in line]


def test_figures_of_another_bundle_join_no_run_and_both_bundles_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = fingerprint()
    run = saved(tmp_path, "2026-01-01", machine=machine, commit=machine["commit"])
    folder = joined.join("catalogue", [asdict(catalogue_row())], tmp_path, OTHER)
    assert folder != run
    assert store.load(run).catalogue == []
    assert store.load(folder).bundle_id == OTHER
    (line,) = lines(capsys, run)
    assert all(bundle in line for bundle in BOTH)
    assert joined.join("catalogue", [asdict(catalogue_row())], tmp_path, BUNDLE_ID) == run


def test_figures_join_no_smoke_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = fingerprint()
    smoke = saved(tmp_path, "2026-01-01", machine=machine, commit=machine["commit"], settings={"size": "smoke"})
    assert joined.join("catalogue", [asdict(catalogue_row())], tmp_path, BUNDLE_ID) != smoke
    assert "a smoke run" in lines(capsys, smoke)[0]


def test_summary_leaves_out_what_is_of_another_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = saved(tmp_path, "2026-01-02", **with_peers(bundle=BUNDLE | OTHER.fields(), workloads={}))
    saved(tmp_path, "2026-01-01", **with_peers())
    saved(tmp_path, "2026-01-03")
    found = digest(tmp_path)
    assert found["sources"] == {"run": "2026-01-03", "peers": "2026-01-01"}
    (line,) = lines(capsys, other)
    assert all(bundle in line for bundle in BOTH)


def test_targets_leave_out_what_is_of_another_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [asdict(catalogue_row()) | {"items": 1_000_000, "index": "approximate"}]
    other = saved(tmp_path, "2026-01-01", bundle=BUNDLE | OTHER.fields(), catalogue=rows)
    run = saved(tmp_path, "2026-01-02")
    name = "recall@100 at 1,000,000 items, worst filter"
    (aim,) = [aim for aim in aims(tmp_path) if aim.name == name]
    assert aim.verdict.startswith("not measured")
    (line,) = lines(capsys, other)
    assert all(bundle in line for bundle in BOTH)
    store.save(run, result(catalogue=rows))
    (aim,) = [aim for aim in aims(tmp_path) if aim.name == name]
    assert aim.values


def test_targets_name_a_smoke_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, "2026-01-01", bundle=BUNDLE | {"default": "int8"})
    smoke = saved(tmp_path, "2026-01-02", bundle=BUNDLE | {"default": "int8"}, settings={"size": "smoke"})
    (aim,) = [aim for aim in aims(tmp_path) if aim.name == "work ratio, default student, mixed"]
    assert aim.source == "2026-01-01"
    assert len(lines(capsys, smoke)) == 1


def test_batch_settings_tried_with_another_bundle_are_not_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = Peers.of([], {}, [{"target": "mosec"}])
    run = saved(tmp_path, "2026-01-01", machine=fingerprint(), peers=tries)
    assert joined.known_tries(tmp_path, BUNDLE_ID) == tries.tries
    assert joined.known_tries(tmp_path, OTHER) == []
    (line,) = lines(capsys, run)
    assert all(bundle in line for bundle in BOTH)


def test_a_result_that_names_no_bundle_is_left_out_and_said_to_be_of_an_unknown_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = saved(tmp_path, "2026-01-02", **with_peers(bundle={"name": "b", "version": "1", "variant": "int8"}))
    saved(tmp_path, "2026-01-01")
    found = digest(tmp_path)
    assert found["sources"] == {"run": "2026-01-01"}
    assert "of an unknown bundle" in lines(capsys, old)[0]
    with pytest.raises(RuntimeError, match=r"of an unknown bundle, since it names no export key: measure again"):
        store.load(old)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"settings": {"size": "smoke"}}, "a smoke run"),
        ({"is_partial": True, "reason": "it was interrupted"}, "not whole: it was interrupted"),
        ({"failures": ["the client is the bottleneck"]}, "not valid: the client is the bottleneck"),
    ],
)
def test_summary_takes_the_newest_full_run_and_names_what_it_passed_over(
    tmp_path: Path, changed: dict[str, object], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = saved(tmp_path, "2026-01-02", **changed)
    alone = SummaryConfig(json=True, results=tmp_path, _cli_parse_args=[])
    assert summary(alone) == 1, "there is no other, and it says what is wrong with it"
    assert lines(capsys, newer) == []
    saved(tmp_path, "2026-01-01")
    assert summary(alone) == 0
    assert digest(tmp_path)["sources"]["run"] == "2026-01-01"
    assert reason in lines(capsys, newer)[0]


def test_a_partial_comparison_with_the_teacher_hides_no_whole_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"rate_ratio": [9.0], "p99_bound_ms": 100.0, "partial": ""}
    newer = saved(tmp_path, "2026-01-02", teacher=whole | {"partial": "the server ended"})
    assert digest(tmp_path)["sources"]["teacher"] == "2026-01-02"
    saved(tmp_path, "2026-01-01", teacher=whole)
    capsys.readouterr()
    assert digest(tmp_path)["sources"]["teacher"] == "2026-01-01"
    assert "the server ended" in lines(capsys, newer)[0]
