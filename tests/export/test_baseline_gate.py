"""Comparisons with baselines: those not beaten are reported, and refused where a user must know immediately."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import leave_one_out
from swiftrec.export.data.text_variants import write_texts
from swiftrec.export.errors import DataError, GateError
from swiftrec.export.evaluate.cold import Adjusted
from swiftrec.export.evaluate.comparisons import compare_cold, compare_groups, compare_tasks
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.evaluation import ORACLE, Evaluation
from swiftrec.export.evaluate.metrics import RankedCases, mean_interval
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.tasks import make_tasks
from swiftrec.export.gates import MIN_COLD_CASES
from swiftrec.export.job import Job
from swiftrec.export.schema.quality import FROZEN, FROZEN_POPULAR, TEACHER
from swiftrec.export.stages import baseline_gate, distil
from swiftrec.export.stages.baseline_gate import check_teacher, require_baselines, require_cold, require_teacher
from swiftrec.server.models.networks import UserSequence
from tests.export.tiny import dataset, job, write_data

_CASES = 200


def hits(share: float, shift: int = 0, cases: int = _CASES) -> RankedCases:
    """A share of the cases is answered with rank 0, the others are not."""
    ranks = np.where((np.arange(cases) + shift) % 100 < 100 * share, 0, 50)
    return RankedCases(ranks, np.zeros((cases, 10), np.int64))


ANSWERS = {
    "popularity": {"ids": hits(0.2), "text": hits(0.2)},
    "transitions": {"ids": hits(0.6)},
    ORACLE: {"cold": hits(1.0)},
    FROZEN: {"ids": hits(0.1), "text": hits(0.3), "query": hits(0.35, 40), "cold": hits(0.1)},
    "text match": {"title": hits(0.9), "query": hits(0.2)},
    TEACHER: {"ids": hits(0.3)},
    "own": {
        "ids": hits(0.3),
        "text": hits(0.5),
        "query": hits(0.33),
        "noisy": hits(0.5),
        "cold": hits(0.1),
        "title": hits(0.6),
    },
}
BASELINES = ["popularity", "transitions", ORACLE, FROZEN, "text match"]


def test_each_task_is_compared_with_its_best_baseline_on_the_same_cases() -> None:
    result = {element.task: element for element in compare_tasks("own", ANSWERS, BASELINES, 1)}
    assert {task: element.baseline for task, element in result.items()} == {
        "ids": "transitions",
        "text": FROZEN,
        "query": FROZEN,
        "cold": FROZEN,  # not the one that knows the cold items' own events
        "title": "text match",  # any subject and any task that has a name
    }
    verdicts = {task: (element.loses, element.is_above) for task, element in result.items()}
    assert verdicts == {
        "ids": (True, False),
        "text": (False, True),
        "query": (False, False),
        "cold": (False, False),
        "title": (True, False),
    }
    assert str(result["ids"]).startswith(
        "ids: own loses to transitions (NDCG@10 0.3000 and 0.6000, difference -0.3000 [-0.3"
    )
    assert "query: own is not above frozen encoder" in str(result["query"])  # lower, but within the interval
    assert result["cold"].difference.mean == 0


def levelled(cold: RankedCases) -> Adjusted:
    return Adjusted(0.0, 0.1, hits(0.3), cold)


def test_cold_task_is_compared_at_an_equal_share_of_new_items() -> None:
    """As ranked both find a tenth; at the same share the other finds half."""
    same = {FROZEN: levelled(hits(0.5)), "own": levelled(hits(0.1))}
    (element,) = [element for element in compare_tasks("own", ANSWERS, BASELINES, 1, same) if element.task == "cold"]
    assert [element.own, element.other] == pytest.approx([0.1, 0.5])
    assert (element.loses, element.is_level) == (True, True)
    assert str(element).startswith(
        "cold at the same share of new items: own loses to frozen encoder (NDCG@10 0.1000 and"
    )


def test_group_below_popularity_is_reported_only_when_significant() -> None:
    """Of the first half of the cases everything is found by the other, of the second half about as much."""
    half = np.arange(_CASES) < _CASES // 2
    ranked_cases, other = (RankedCases(np.where(half, first, hits(0.4, shift).ranks), np.zeros((_CASES, 10), np.int64))
                  for first, shift in ((50, 0), (0, 30)))  # fmt: skip
    answers = {"own": {"ids": ranked_cases, "query": ranked_cases}, "popularity": {"ids": other, "query": other}}
    members = {("gender", "F"): half, ("gender", "M"): ~half}
    result = compare_groups("own", "popularity", answers, members, 1)
    assert [(element.task, element.group, element.cases, element.loses) for element in result] == [
        ("ids", "gender F", 100, True),
        ("ids", "gender M", 100, False),
    ]
    assert str(result[0]).startswith(
        "ids, gender F: own loses to popularity (NDCG@10 0.0000 and 1.0000, difference -1."
    )


def made(*flags: str, answers: dict[str, dict[str, RankedCases]] | None = None) -> tuple[Job, Evaluation, Console]:
    console = Console(width=200, record=True, file=io.StringIO())
    cases = SimpleNamespace(targets=np.zeros(_CASES))
    ground = SimpleNamespace(
        seed=1,
        tasks=SimpleNamespace(warm=cases, cold=cases),
        figures=lambda row: {task: mean_interval(ranked.ndcg, 1) for task, ranked in row.items()},
        new_items=SimpleNamespace(share=0.1, share_in=lambda _: 0.25),
        frozen_fault="",
        members={},
    )
    job_ = Job(ExportSettings(_cli_parse_args=[*flags]), console)
    return job_, Evaluation(cast(EvaluationContext, ground), dict(answers or ANSWERS)), console


def test_task_below_its_baseline_stops_the_export_only_when_requested() -> None:
    compared = compare_tasks("own", ANSWERS, BASELINES, 1)
    element, evaluation, console = made()
    require_baselines(element, evaluation, compared)
    assert console.export_text() == ""
    element, evaluation, console = made("--require-baselines")
    with pytest.raises(GateError, match=r"--require-baselines: ids: own loses to transitions .*: train longer"):
        require_baselines(element, evaluation, compared)
    assert "transitions" in console.export_text()
    require_baselines(element, evaluation, [two for two in compared if not two.loses])  # control


def test_teacher_below_a_baseline_on_ids_is_reported_before_distillation() -> None:
    answers = {name: ANSWERS[name] for name in (*BASELINES, TEACHER)}
    element, evaluation, _ = made("--require-baselines", answers=answers)
    with pytest.raises(GateError, match="ids: teacher loses to transitions"):
        require_teacher(element, evaluation)
    good = answers | {TEACHER: {"ids": hits(0.9), "text": hits(0)}}  # text: students may differ
    require_teacher(*made("--require-baselines", answers=good)[:2])


def test_group_below_popularity_is_reported_before_distillation() -> None:
    """Over all users it is above, within the first half of them nothing is found."""
    half = np.arange(_CASES) < _CASES // 2
    teacher = {"ids": RankedCases(np.where(half, 50, 0), np.zeros((_CASES, 10), np.int64))}
    answers = {"popularity": {"ids": hits(0.2)}, TEACHER: teacher}
    element, evaluation, console = made("--require-baselines", answers=answers)
    require_teacher(element, evaluation)  # control: no groups
    cast(SimpleNamespace, evaluation.context).members = {("events", "2 to 9"): half}
    with pytest.raises(GateError, match=r"--require-baselines: ids, events 2 to 9: teacher loses to popularity"):
        require_teacher(element, evaluation)
    assert "0.2000" in console.export_text()  # the whole table


def cold_evaluation(teacher: RankedCases, *flags: str) -> tuple[Job, Evaluation, Console]:
    """The frozen encoder finds a fifth of what is new at the common share."""
    element, evaluation, console = made(*flags)
    row = {"ids": hits(0.3), "cold": hits(0.9)}  # as ranked the teacher finds most of it
    evaluation.results |= {TEACHER: row, FROZEN: row}
    evaluation.adjusted |= {TEACHER: levelled(teacher), FROZEN: levelled(hits(0.2))}
    return element, evaluation, console


def test_teacher_is_refused_when_below_the_frozen_encoder_on_cold() -> None:
    element, evaluation, console = cold_evaluation(hits(0.1))
    with pytest.raises(
        GateError,
        match=r"cold at the same share of new items: teacher loses to frozen encoder \(NDCG@10 0\.1000 and 0\.2000, "
        r"difference -0\.1000 \[.*200 cases\): try --backbone-layers frozen or fewer --passes; --allow-lossy",
    ):
        require_teacher(element, evaluation)
    printed = console.export_text()
    assert "NDCG@10, leave-one-out, 200 users" in printed
    assert "with new items in 10.00% of the lists of ids" in printed
    assert "transitions" in printed
    element, evaluation, console = cold_evaluation(hits(0.1), "--allow-lossy")
    require_teacher(element, evaluation)
    assert console.export_text() == ""


@pytest.mark.parametrize("teacher", [hits(0.2), hits(0.19, 50), hits(0.5)], ids=["equal", "by chance", "above"])
def test_teacher_passes_when_not_significantly_below_the_frozen_encoder(teacher: RankedCases) -> None:
    element, evaluation, _ = cold_evaluation(teacher)
    require_cold(element, evaluation, TEACHER)


def test_default_variant_is_refused_when_only_it_is_below_on_cold() -> None:
    """An encoder or other parts of what is served may give other results than the teacher's."""
    element, evaluation, _ = cold_evaluation(hits(0.2))
    evaluation.adjusted["own"] = levelled(hits(0.05))
    require_cold(element, evaluation, TEACHER)
    with pytest.raises(GateError, match="cold at the same share of new items: own loses to frozen encoder"):
        require_cold(element, evaluation, "own")


def test_cold_gate_passes_when_it_cannot_be_measured() -> None:
    element, evaluation, _ = cold_evaluation(hits(0.0))
    assert compare_cold(TEACHER, evaluation) is not None  # control
    cast(SimpleNamespace, evaluation.context.tasks).cold = SimpleNamespace(targets=np.zeros(MIN_COLD_CASES - 1))
    assert compare_cold(TEACHER, evaluation) is None
    element, evaluation, _ = cold_evaluation(hits(0.0))
    del evaluation.adjusted[FROZEN]  # too many items for it
    require_cold(element, evaluation, TEACHER)


def test_early_check_loads_nothing_when_no_gate_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Job] = []
    monkeypatch.setattr(baseline_gate, "load_context", loaded.append)
    check_teacher(job(tmp_path))  # too few cold cases
    monkeypatch.setattr(baseline_gate, "MIN_COLD_CASES", 0)
    check_teacher(job(tmp_path, "--allow-lossy"))
    assert loaded == []


def test_requiring_baselines_without_interactions_is_refused(tmp_path: Path) -> None:
    bare = dataset(users=0)
    write_data(tmp_path / ".stages" / "tiny" / "data", bare)
    with pytest.raises(DataError, match="--require-baselines needs interactions to compare by, and there are none"):
        check_teacher(job(tmp_path, "--require-baselines"))


def often() -> Dataset:
    """Each item follows the one before it, also the item that is kept from training."""
    histories = [(np.arange(12, dtype=np.int64) + user) % 24 for user in range(48)]
    return replace(dataset(), histories=histories)


def stepping(step: int) -> EvaluatedRecommender:
    """Recommends the item `step` positions after the last one: 1 is always right, also for a new item."""
    items = np.eye(24, dtype=np.float32)

    def rank(users: list[UserSequence]) -> NDArray[np.float32]:
        return np.array([np.roll(user.vectors[-1], step) for user in users])

    return EvaluatedRecommender(lambda texts: items[[len(text) % 24 for text in texts]], rank, items, 64)


def ground_of(teacher: EvaluatedRecommender, frozen: EvaluatedRecommender) -> EvaluationContext:
    made, parts = often(), leave_one_out(often())
    return EvaluationContext(
        seed=1,
        dataset=made,
        split=parts,
        tasks=make_tasks(made, write_texts(made, 0), parts, 1),
        counts=np.bincount(np.concatenate(parts.known), minlength=24),
        texts=teacher.items,
        teacher=teacher,
        frozen=frozen,
    )


def test_distillation_does_not_start_when_the_untrained_encoder_is_better_on_cold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stages.baseline_gate", "evaluate.comparisons"):
        monkeypatch.setattr(f"swiftrec.export.{module}.MIN_COLD_CASES", 10)
    element = job(tmp_path)
    often().save(element.folder("data"))
    element.console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(baseline_gate, "load_context", lambda _: ground_of(stepping(1), stepping(9)))
    check_teacher(element)  # control: the teacher is right
    assert element.console.export_text(clear=False) == ""
    monkeypatch.setattr(baseline_gate, "load_context", lambda _: ground_of(stepping(9), stepping(1)))
    output = tmp_path / "distil"
    output.mkdir()
    with pytest.raises(GateError, match="cold at the same share of new items: teacher loses to frozen encoder"):
        distil.run(element, output)
    assert not list(output.iterdir())
    printed = element.console.export_text()
    for name in ("popularity", "transitions", FROZEN, FROZEN_POPULAR, TEACHER):
        assert name in printed
