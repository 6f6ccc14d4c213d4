"""Distances from what could be had: who loses to a yardstick is said, and refused where a user must know at once."""

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
from swiftrec.export.evaluate import baseline_gate
from swiftrec.export.evaluate.baseline_gate import check, require_baselines, require_cold, require_teacher
from swiftrec.export.evaluate.cold import Levelled
from swiftrec.export.evaluate.compare import ORACLE, Evaluation
from swiftrec.export.evaluate.comparisons import compare_cold, compare_groups, compare_tasks
from swiftrec.export.evaluate.context import Ground
from swiftrec.export.evaluate.metrics import Ranked, figure
from swiftrec.export.evaluate.recommender import Subject
from swiftrec.export.evaluate.record import FROZEN, FROZEN_POPULAR, TEACHER
from swiftrec.export.evaluate.tasks import make_tasks
from swiftrec.export.quality import MIN_COLD_CASES
from swiftrec.export.stages import distil
from swiftrec.export.stages.runner import Job
from swiftrec.server.models.networks import UserSequence
from tests.export.tiny import dataset, job, write_data

_CASES = 200


def hits(share: float, shift: int = 0, cases: int = _CASES) -> Ranked:
    """A share of the cases is answered with rank 0, the others are not."""
    ranks = np.where((np.arange(cases) + shift) % 100 < 100 * share, 0, 50)
    return Ranked(ranks, np.zeros((cases, 10), np.int64))


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


def test_each_task_is_compared_with_its_best_yardstick_over_the_same_cases() -> None:
    found = {one.task: one for one in compare_tasks("own", ANSWERS, BASELINES, 1)}
    assert {task: one.baseline for task, one in found.items()} == {
        "ids": "transitions",
        "text": FROZEN,
        "query": FROZEN,
        "cold": FROZEN,  # not the one that knows the cold items' own events
        "title": "text match",  # any subject and any task that has a name
    }
    verdicts = {task: (one.loses, one.is_above) for task, one in found.items()}
    assert verdicts == {
        "ids": (True, False),
        "text": (False, True),
        "query": (False, False),
        "cold": (False, False),
        "title": (True, False),
    }
    assert str(found["ids"]).startswith(
        "ids: own loses to transitions (NDCG@10 0.3000 and 0.6000, difference -0.3000 [-0.3"
    )
    assert "query: own is not above frozen encoder" in str(found["query"])  # lower, but within the interval
    assert found["cold"].difference.mean == 0


def levelled(cold: Ranked) -> Levelled:
    return Levelled(0.0, 0.1, hits(0.3), cold)


def test_cold_is_compared_at_the_same_share_of_new_items() -> None:
    """As ranked both find a tenth; at the same share the other finds half."""
    same = {FROZEN: levelled(hits(0.5)), "own": levelled(hits(0.1))}
    (one,) = [one for one in compare_tasks("own", ANSWERS, BASELINES, 1, same) if one.task == "cold"]
    assert [one.own, one.other] == pytest.approx([0.1, 0.5])
    assert (one.loses, one.is_level) == (True, True)
    assert str(one).startswith("cold at the same share of new items: own loses to frozen encoder (NDCG@10 0.1000 and")


def test_group_below_popularity_is_said_only_beyond_its_interval() -> None:
    """Of the first half of the cases everything is found by the other, of the second half about as much."""
    half = np.arange(_CASES) < _CASES // 2
    own, other = (Ranked(np.where(half, first, hits(0.4, shift).ranks), np.zeros((_CASES, 10), np.int64))
                  for first, shift in ((50, 0), (0, 30)))  # fmt: skip
    answers = {"own": {"ids": own, "query": own}, "popularity": {"ids": other, "query": other}}
    members = {("gender", "F"): half, ("gender", "M"): ~half}
    found = compare_groups("own", "popularity", answers, members, 1)
    assert [(one.task, one.group, one.cases, one.loses) for one in found] == [
        ("ids", "gender F", 100, True),
        ("ids", "gender M", 100, False),
    ]
    assert str(found[0]).startswith("ids, gender F: own loses to popularity (NDCG@10 0.0000 and 1.0000, difference -1.")


def made(*flags: str, answers: dict[str, dict[str, Ranked]] | None = None) -> tuple[Job, Evaluation, Console]:
    console = Console(width=200, record=True, file=io.StringIO())
    cases = SimpleNamespace(targets=np.zeros(_CASES))
    ground = SimpleNamespace(
        seed=1,
        tasks=SimpleNamespace(warm=cases, cold=cases),
        figures=lambda row: {task: figure(ranked.ndcg, 1) for task, ranked in row.items()},
        newcomers=SimpleNamespace(share=0.1, shown=lambda _: 0.25),
        frozen_fault="",
        members={},
    )
    job_ = Job(ExportSettings(_cli_parse_args=[*flags]), console)
    return job_, Evaluation(cast(Ground, ground), dict(answers or ANSWERS)), console


def test_lost_task_stops_the_export_with_the_table_only_when_it_is_asked_for() -> None:
    compared = compare_tasks("own", ANSWERS, BASELINES, 1)
    one, evaluation, console = made()
    require_baselines(one, evaluation, compared)
    assert console.export_text() == ""
    one, evaluation, console = made("--require-baselines")
    with pytest.raises(GateError, match=r"--require-baselines: ids: own loses to transitions .*: train longer"):
        require_baselines(one, evaluation, compared)
    assert "transitions" in console.export_text()
    require_baselines(one, evaluation, [two for two in compared if not two.loses])  # control


def test_teacher_that_loses_on_ids_is_known_before_students_are_trained() -> None:
    answers = {name: ANSWERS[name] for name in (*BASELINES, TEACHER)}
    one, evaluation, _ = made("--require-baselines", answers=answers)
    with pytest.raises(GateError, match="ids: teacher loses to transitions"):
        require_teacher(one, evaluation)
    good = answers | {TEACHER: {"ids": hits(0.9), "text": hits(0)}}  # text: students may differ
    require_teacher(*made("--require-baselines", answers=good)[:2])


def test_group_in_which_the_teacher_loses_to_popularity_is_known_early_too() -> None:
    """Over all users it is above, within the first half of them nothing is found."""
    half = np.arange(_CASES) < _CASES // 2
    teacher = {"ids": Ranked(np.where(half, 50, 0), np.zeros((_CASES, 10), np.int64))}
    answers = {"popularity": {"ids": hits(0.2)}, TEACHER: teacher}
    one, evaluation, console = made("--require-baselines", answers=answers)
    require_teacher(one, evaluation)  # control: no groups
    cast(SimpleNamespace, evaluation.ground).members = {("events", "2 to 9"): half}
    with pytest.raises(GateError, match=r"--require-baselines: ids, events 2 to 9: teacher loses to popularity"):
        require_teacher(one, evaluation)
    assert "0.2000" in console.export_text()  # the whole table


def cold_evaluation(teacher: Ranked, *flags: str) -> tuple[Job, Evaluation, Console]:
    """The frozen encoder finds a fifth of what is new at the common share."""
    one, evaluation, console = made(*flags)
    row = {"ids": hits(0.3), "cold": hits(0.9)}  # as ranked the teacher finds most of it
    evaluation.answers |= {TEACHER: row, FROZEN: row}
    evaluation.levelled |= {TEACHER: levelled(teacher), FROZEN: levelled(hits(0.2))}
    return one, evaluation, console


def test_teacher_below_the_frozen_encoder_on_cold_is_refused_with_both_tables() -> None:
    one, evaluation, console = cold_evaluation(hits(0.1))
    with pytest.raises(
        GateError,
        match=r"cold at the same share of new items: teacher loses to frozen encoder \(NDCG@10 0\.1000 and 0\.2000, "
        r"difference -0\.1000 \[.*200 cases\): try --trunk frozen, fewer --passes, or a --pull above 0; --allow-lossy",
    ):
        require_teacher(one, evaluation)
    printed = console.export_text()
    assert "NDCG@10, leave-one-out, 200 users" in printed
    assert "with new items in 10.00% of the lists of ids" in printed
    assert "transitions" in printed
    one, evaluation, console = cold_evaluation(hits(0.1), "--allow-lossy")
    require_teacher(one, evaluation)
    assert console.export_text() == ""


@pytest.mark.parametrize("teacher", [hits(0.2), hits(0.19, 50), hits(0.5)], ids=["equal", "by chance", "above"])
def test_teacher_not_below_the_frozen_encoder_beyond_the_interval_passes(teacher: Ranked) -> None:
    one, evaluation, _ = cold_evaluation(teacher)
    require_cold(one, evaluation, TEACHER)


def test_default_that_loses_on_cold_is_refused_though_the_teacher_does_not() -> None:
    """An encoder or other parts of what is served may give other results than the teacher's."""
    one, evaluation, _ = cold_evaluation(hits(0.2))
    evaluation.levelled["own"] = levelled(hits(0.05))
    require_cold(one, evaluation, TEACHER)
    with pytest.raises(GateError, match="cold at the same share of new items: own loses to frozen encoder"):
        require_cold(one, evaluation, "own")


def test_gate_on_cold_that_cannot_be_measured_refuses_nobody() -> None:
    one, evaluation, _ = cold_evaluation(hits(0.0))
    assert compare_cold(TEACHER, evaluation) is not None  # control
    cast(SimpleNamespace, evaluation.ground.tasks).cold = SimpleNamespace(targets=np.zeros(MIN_COLD_CASES - 1))
    assert compare_cold(TEACHER, evaluation) is None
    one, evaluation, _ = cold_evaluation(hits(0.0))
    del evaluation.levelled[FROZEN]  # too many items for it
    require_cold(one, evaluation, TEACHER)


def test_early_check_loads_nothing_where_no_gate_can_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Job] = []
    monkeypatch.setattr(Ground, "load", loaded.append)
    check(job(tmp_path))  # too few cold cases
    monkeypatch.setattr(baseline_gate, "MIN_COLD_CASES", 0)
    check(job(tmp_path, "--allow-lossy"))
    assert loaded == []


def test_requiring_baselines_without_interactions_is_refused(tmp_path: Path) -> None:
    bare = dataset(users=0)
    write_data(tmp_path / ".stages" / "tiny" / "data", bare)
    with pytest.raises(DataError, match="--require-baselines needs interactions to compare by, and there are none"):
        check(job(tmp_path, "--require-baselines"))


def often() -> Dataset:
    """Each item follows the one before it, also the item that is kept from training."""
    histories = [(np.arange(12, dtype=np.int64) + user) % 24 for user in range(48)]
    return replace(dataset(), histories=histories)


def stepping(step: int) -> Subject:
    """Recommends the item so many places behind the last one: 1 is always right, also for a new item."""
    items = np.eye(24, dtype=np.float32)

    def rank(users: list[UserSequence]) -> NDArray[np.float32]:
        return np.array([np.roll(user.vectors[-1], step) for user in users])

    return Subject(lambda texts: items[[len(text) % 24 for text in texts]], rank, items, 64)


def ground_of(teacher: Subject, frozen: Subject) -> Ground:
    made, parts = often(), leave_one_out(often())
    return Ground(
        seed=1,
        dataset=made,
        split=parts,
        tasks=make_tasks(made, write_texts(made, 0), parts, 1),
        counts=np.bincount(np.concatenate(parts.known), minlength=24),
        texts=teacher.items,
        teacher=teacher,
        frozen=frozen,
    )


def test_untrained_encoder_that_finds_new_items_better_stops_distillation_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("baseline_gate", "comparisons"):
        monkeypatch.setattr(f"swiftrec.export.evaluate.{module}.MIN_COLD_CASES", 10)
    one = job(tmp_path)
    often().save(one.folder("data"))
    one.console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(Ground, "load", lambda _: ground_of(stepping(1), stepping(9)))
    check(one)  # control: the teacher is right
    assert one.console.export_text(clear=False) == ""
    monkeypatch.setattr(Ground, "load", lambda _: ground_of(stepping(9), stepping(1)))
    out = tmp_path / "distil"
    out.mkdir()
    with pytest.raises(GateError, match="cold at the same share of new items: teacher loses to frozen encoder"):
        distil.run(one, out)
    assert not list(out.iterdir())
    printed = one.console.export_text()
    for name in ("popularity", "transitions", FROZEN, FROZEN_POPULAR, TEACHER):
        assert name in printed
