"""The default variant against baselines: who loses is said, and refused with --require-baselines."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from rich.console import Console

from export.config import ExportSettings
from export.errors import DataError, GateError
from export.evaluate.baseline_gate import check, compare_with_baselines, require_baselines, require_teacher
from export.evaluate.compare import ORACLE
from export.evaluate.ground import Ground
from export.evaluate.metrics import Ranked, figure
from export.evaluate.record import TEACHER
from export.stage import Job
from tests.tiny import dataset, job, write_data

_CASES = 200


def hits(share: float, shift: int = 0) -> Ranked:
    """A share of the cases is answered with rank 0, the others are not."""
    ranks = np.where((np.arange(_CASES) + shift) % 100 < 100 * share, 0, 50)
    return Ranked(ranks, np.zeros((_CASES, 10), np.int64))


ANSWERS = {
    "popularity": {"ids": hits(0.2), "text": hits(0.2)},
    "transitions": {"ids": hits(0.6)},
    ORACLE: {"cold": hits(1.0)},
    "frozen encoder": {"ids": hits(0.1), "text": hits(0.3), "query": hits(0.35, 40), "cold": hits(0.1)},
    TEACHER: {"ids": hits(0.3)},
    "own": {"ids": hits(0.3), "text": hits(0.5), "query": hits(0.33), "noisy": hits(0.5), "cold": hits(0.1)},
}
BASELINES = ["popularity", "transitions", ORACLE, "frozen encoder"]


def test_each_task_is_compared_with_its_best_baseline_over_the_same_cases() -> None:
    found = {one.task: one for one in compare_with_baselines("own", ANSWERS, BASELINES, 1)}
    assert {task: one.baseline for task, one in found.items()} == {
        "ids": "transitions",
        "text": "frozen encoder",
        "query": "frozen encoder",
        "cold": "frozen encoder",  # not the one that knows the cold items' own events
    }
    verdicts = {task: (one.loses, one.is_above) for task, one in found.items()}
    assert verdicts == {"ids": (True, False), "text": (False, True), "query": (False, False), "cold": (False, False)}
    assert str(found["ids"]).startswith(
        "ids: own loses to transitions (NDCG@10 0.3000 and 0.6000, difference -0.3000 [-0.3"
    )
    assert "query: own is not above frozen encoder" in str(found["query"])  # lower, but within the interval
    assert found["cold"].difference.mean == 0


def made(*flags: str) -> tuple[Job, Ground, Console]:
    console = Console(width=200, record=True, file=io.StringIO())
    tasks = SimpleNamespace(warm=SimpleNamespace(wanted=np.zeros(_CASES)))

    def figures(row: Mapping[str, Ranked]) -> dict[str, object]:
        return {task: figure(ranked.ndcg, 1) for task, ranked in row.items()}

    ground = cast(Ground, SimpleNamespace(seed=1, tasks=tasks, figures=figures))
    return Job(ExportSettings(_cli_parse_args=[*flags]), console), ground, console


def test_lost_task_stops_the_export_with_the_table_only_when_it_is_asked_for() -> None:
    compared = compare_with_baselines("own", ANSWERS, BASELINES, 1)
    one, ground, console = made()
    require_baselines(one, ground, ANSWERS, compared)
    assert console.export_text() == ""
    one, ground, console = made("--require-baselines")
    with pytest.raises(GateError, match=r"--require-baselines: ids: own loses to transitions .*: train longer"):
        require_baselines(one, ground, ANSWERS, compared)
    assert "transitions" in console.export_text()
    require_baselines(one, ground, ANSWERS, [two for two in compared if two.task != "ids"])  # control


def test_teacher_that_loses_on_ids_is_known_before_students_are_trained() -> None:
    answers = {name: ANSWERS[name] for name in (*BASELINES, TEACHER)}
    one, ground, _ = made("--require-baselines")
    with pytest.raises(GateError, match="ids: teacher loses to transitions"):
        require_teacher(one, ground, answers)
    require_teacher(one, ground, answers | {TEACHER: {"ids": hits(0.9), "text": hits(0)}})  # text: students may differ
    one, ground, _ = made("--require-baselines", "--small-ranker", "auto")
    require_teacher(one, ground, answers)  # another ranker may serve: not known yet


def test_early_check_reads_nothing_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Job] = []
    monkeypatch.setattr(Ground, "load", loaded.append)
    check(job(tmp_path))
    assert loaded == []


def test_requiring_baselines_without_interactions_is_refused(tmp_path: Path) -> None:
    bare = dataset(users=0)
    write_data(tmp_path / ".stages" / "tiny" / "data", bare)
    with pytest.raises(DataError, match="--require-baselines needs interactions to compare by, and there are none"):
        check(job(tmp_path, "--require-baselines"))
