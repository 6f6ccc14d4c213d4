"""A run keeps its time: the first round ends with the budget, a later one begins only where the whole of it fits."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swiftrec.benchmarks.suite.bench import Bench
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.result import Point
from swiftrec.benchmarks.suite.rounds import Rounds
from swiftrec.benchmarks.suite.settings import BenchSettings
from tests.benchmarks.results import point, result
from tests.conftest import ROOT

_WINDOW_S = 10.0


class Timed(Bench):
    """Its windows cost ten seconds on a clock of its own, and nothing else."""

    def __init__(self, folder: Path, budget_s: float) -> None:
        self.now = 0.0
        settings = BenchSettings(
            results=folder, workloads=["mixed", "list"], budget_s=budget_s, in_flight=32, _cli_parse_args=[]
        )
        super().__init__(settings, result(workloads={}, is_partial=True), Raw(), clock=lambda: self.now)

    def saturate(self, *_: Any, **__: Any) -> dict[str, Any]:  # noqa: ANN401
        self.now += _WINDOW_S
        return {"server": {"batch_jobs": 4.0}}

    def offer(self, *_: Any, **__: Any) -> dict[str, Any]:  # noqa: ANN401
        return self.saturate()

    def point(self, found: Mapping[str, Any], **facts: Any) -> Point:  # noqa: ANN401
        made = point(facts.get("share", 0.0), 10.0, facts["round"])
        self.result.points.append(made)
        return made


def windows(bench: Bench) -> int:
    return len(bench.result.points)


@pytest.mark.parametrize("fits", [1, 2, 5])
def test_first_round_ends_with_the_budget_and_keeps_its_windows(tmp_path: Path, fits: int) -> None:
    bench = Timed(tmp_path, fits * _WINDOW_S - 1.0)
    with pytest.raises(RuntimeError, match=r"the first round did not fit into .* give a larger --budget-s"):
        Rounds(bench, lambda _: None).run(3)
    assert windows(bench) == fits
    assert list(bench.result.workloads) == ["mixed", "list"][:fits]
    assert bench.now <= bench.settings.budget_s + _WINDOW_S


def test_whole_rounds_are_measured_while_they_fit(tmp_path: Path) -> None:
    every = 2 + len(Timed(tmp_path, 1.0).plan.shares) + 1  # saturations, the curve, the other workload at 70 %
    bench = Timed(tmp_path, every * _WINDOW_S * 2 + 85.0)
    Rounds(bench, lambda _: None).run(3)
    assert windows(bench) == 2 * every
    assert bench.result.notes == ["2 of 3 rounds: the rest did not fit into the budget"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("target", ["bench", "bench-peers"])
def test_bundle_is_exported_first_unless_one_is_given(target: str) -> None:
    recipe = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 'bundle="${BUNDLE_TYPED:-$(.venv/bin/swiftrec export' in recipe
    assert '--bundle="$bundle"' in recipe
