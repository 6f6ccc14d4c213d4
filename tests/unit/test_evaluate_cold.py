"""The gate on cold: a teacher that finds nothing of what is new is refused, where there are cases enough to tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.compress import quantise, trace
from export.errors import GateError
from export.evaluate import cold, verify
from export.evaluate.cold import check_cold, require_cold, shortfall
from export.evaluate.metrics import Figure
from export.evaluate.record import RECORD, Quality
from export.package.ladder import remarks
from export.package.rows import as_json
from export.quality import COLD_OF_IDS, MIN_COLD_CASES, QUALITY
from export.train import distil, finetune
from tests.tiny import StoppedJob, dataset, job


def figures(ids: float, cold: float, high: float) -> dict[str, Figure]:
    return {"ids": Figure(ids, 0.9 * ids, 1.1 * ids), "cold": Figure(cold, 0.0, high)}


@pytest.mark.parametrize(
    ("ids", "mean", "high", "passes"),
    [
        (0.0942, 0.0296, 0.035, True),  # the lowest and the highest that the presets have
        (0.1092, 0.0565, 0.065, True),
        (0.1, 0.02, 0.025, True),  # the upper end is what counts
        (0.1, 0.02, 0.0249, False),
        (0.1, 0.0, 0.0, False),
    ],
)
def test_upper_end_on_cold_is_at_least_a_quarter_of_ids(ids: float, mean: float, high: float, passes: bool) -> None:
    check = check_cold(figures(ids, mean, high), MIN_COLD_CASES)
    assert check is not None
    assert (check.gate, check.threshold, check.has_passed) == (COLD_OF_IDS, QUALITY.teacher[COLD_OF_IDS], passes)
    assert check.value == pytest.approx(high / ids)
    assert bool(shortfall(figures(ids, mean, high), MIN_COLD_CASES)) != passes


def test_miss_says_by_how_much_and_what_to_try_and_may_be_excused() -> None:
    found = figures(0.1, 0.005, 0.01)
    with pytest.raises(
        GateError,
        match=r"teacher: NDCG@10 on cold .*120 cases\) is 0\.0050 \[0\.000, 0\.010\], on ids 0\.1000: "
        r"cold of ids 0\.100, 0\.150 short of 0\.250\. Try --trunk frozen, fewer --passes, or a --pull above 0; --all",
    ):
        require_cold(found, 120, allow_lossy=False)
    require_cold(found, 120, allow_lossy=True)


@pytest.mark.parametrize(
    ("found", "cases"),
    [
        (figures(0.1, 0.0, 0.0), MIN_COLD_CASES - 1),
        (figures(0.0, 0.0, 0.0), MIN_COLD_CASES),
        ({"ids": Figure(0.1, 0.0, 0.2)}, 0),
    ],
    ids=["few cases", "nothing to be a share of", "no cold items"],
)
def test_gate_on_cold_that_cannot_be_measured_refuses_nobody(found: dict[str, Figure], cases: int) -> None:
    assert check_cold(found, cases) is None
    require_cold(found, cases, allow_lossy=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny teacher with its static student, up to stage `verify`; one item is kept from training."""
    made = job(tmp_path_factory.mktemp("tiny"), "--ladder", "static", "--allow-lossy")
    often = [np.roll(np.arange(24, dtype=np.int64), -user)[:20] for user in range(24)]
    replace(dataset(), histories=often).save(made.folder("data"))
    stages = {"finetune": finetune.run, "distil": distil.run, "onnx": trace.run, "quantise": quantise.run}
    for name, run in stages.items():
        made.folder(name).mkdir()
        run(made, made.folder(name))
    return made


def verified(made: StoppedJob, out: Path) -> Quality:
    verify.run(made, out)
    return Quality.model_validate_json((out / RECORD).read_text())


def test_tiny_data_leave_the_gate_unmeasured(tiny: StoppedJob, tmp_path: Path) -> None:
    quality = verified(tiny, tmp_path)
    teacher = quality.teacher
    assert (teacher.gates, teacher.unmeasured, teacher.exception) == ([], [COLD_OF_IDS], "")
    assert f"teacher: not measured, {COLD_OF_IDS}: too few cold cases, or nothing found on ids" in remarks(quality)


def test_teacher_that_fails_on_cold_stops_the_export_or_is_recorded(
    tiny: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cold, "MIN_COLD_CASES", 1)
    monkeypatch.setattr(cold, "QUALITY", replace(QUALITY, teacher={COLD_OF_IDS: 1e6}))
    quality = verified(tiny, tmp_path)
    (gate,) = quality.teacher.gates
    assert (gate.threshold, gate.passed) == (1e6, False)
    assert gate.value == quality.tasks["teacher"]["cold"].high / quality.tasks["teacher"]["ids"].mean
    said = [line for line in remarks(quality) if line.startswith("teacher is shipped all the same (--allow-lossy): ")]
    assert said == [f"teacher is shipped all the same (--allow-lossy): {quality.teacher.exception}"]
    assert as_json(quality)["teacher"]["gates"] == [gate.model_dump()]
    monkeypatch.setattr(tiny.settings, "allow_lossy", False)
    (tmp_path / "again").mkdir()
    with pytest.raises(GateError, match=r"teacher: NDCG@10 on cold .* Try --trunk frozen"):
        verify.run(tiny, tmp_path / "again")
    assert not list((tmp_path / "again").iterdir())
