"""Figures on cold items at a fixed share of new items, whether a recommender floods its lists or hides them."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from swiftrec.export.data.split import Cases
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.data.user_groups import quarters_of
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate import metrics
from swiftrec.export.evaluate.backends import PooledTexts, plain_encode
from swiftrec.export.evaluate.cold import NewItems, adjust, offset_for
from swiftrec.export.evaluate.comparisons import cold_fault, cold_pairs
from swiftrec.export.evaluate.context import EvaluationContext, add_popularity
from swiftrec.export.evaluate.evaluation import Evaluation
from swiftrec.export.evaluate.metrics import Score, mean_interval, rank
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.gates import COLD_GATE
from swiftrec.export.gates import QualityThresholds as Gates
from swiftrec.export.report.record_json import as_json
from swiftrec.export.report.sentences import remarks
from swiftrec.export.report.tables import show
from swiftrec.export.schema.quality import (
    FROZEN,
    FROZEN_POPULAR,
    QUALITY_FILE,
    RANKER_ALONE,
    TEACHER,
    TEXT_ALONE,
    Quality,
)
from swiftrec.export.stages import evaluation_context, verify
from swiftrec.export.stages.baseline_gate import check_teacher
from swiftrec.export.stages.evaluation_context import load_context
from swiftrec.server.arrays import Scores
from swiftrec.server.models.networks import EventKind, UserSequence
from tests.export.tiny import StoppedJob, dataset, job, run_stages

_ITEMS, _CASES = 60, 300
_NEW = np.array([3, 17, 18, 40, 51, 59])


def made(items: int = _ITEMS, cases: int = _CASES, new: NDArray[np.int64] = _NEW) -> NewItems:
    """Cases with a history of two items, whose target is an old item (warm) or a new one (cold)."""
    rng = np.random.default_rng(1)
    old = np.setdiff1d(np.arange(items), new)
    histories = [rng.choice(old, 2, replace=False) for _ in range(cases)]
    users = np.arange(cases)
    warm = Cases(users, histories, np.array([rng.choice(np.setdiff1d(old, h)) for h in histories]))
    return NewItems(warm, Cases(users, histories, rng.choice(new, cases)), items, new)


NEW_ITEMS = made()


def scores(cases: Cases, knowledge: float, on_new: float = 0.0) -> Scores:
    """Noise, plus `knowledge` on the target, plus `on_new` on every new item."""
    result = np.random.default_rng(2).normal(size=(len(cases.targets), _ITEMS)).astype(np.float32)
    result[np.arange(len(result)), cases.targets] += knowledge
    result[:, _NEW] += on_new
    return result


def sliced(result: Scores) -> Score:
    return lambda part: result[part]


def ranked(on_new: float, knowledge: float = 1.0) -> tuple[Score, Score]:
    return tuple(sliced(scores(cases, knowledge, on_new)) for cases in (NEW_ITEMS.warm, NEW_ITEMS.cold))  # type: ignore[return-value]


def test_figures_at_the_fixed_share_do_not_change_when_new_items_flood_or_are_hidden() -> None:
    fair = adjust(*ranked(0.0), NEW_ITEMS)
    for on_new in (-100.0, -0.5, 0.5, 100.0):
        other = adjust(*ranked(on_new), NEW_ITEMS)
        assert other.offset == pytest.approx(fair.offset - on_new, abs=1e-3)
        assert other.share == pytest.approx(0.1, abs=0.001)
        assert other.cold.ndcg.mean() == pytest.approx(fair.cold.ndcg.mean(), abs=0.005)
        assert other.ids.ndcg.mean() == pytest.approx(fair.ids.ndcg.mean(), abs=0.005)


def test_unadjusted_figures_rise_when_new_items_flood_and_fall_when_hidden() -> None:
    """Control: without the offset the figure on cold says nothing of what is known of new items."""
    cold = {on: rank(ranked(on)[1], NEW_ITEMS.cold, _ITEMS).ndcg.mean() for on in (-100.0, 0.0, 100.0)}
    assert cold[-100.0] == 0
    assert cold[100.0] > 1.5 * cold[0.0]
    flood = rank(ranked(100.0)[0], NEW_ITEMS.warm, _ITEMS)
    assert NEW_ITEMS.share_in(flood) == pytest.approx(0.6)  # all six, in each list of ten


def test_better_ranking_of_new_items_beats_flooding() -> None:
    knows, floods = adjust(*ranked(0.0, knowledge=2.0), NEW_ITEMS), adjust(*ranked(100.0, knowledge=0.0), NEW_ITEMS)
    assert mean_interval(knows.cold.ndcg - floods.cold.ndcg, 1).low > 0.1


@settings(deadline=None)  # on a busy machine an example takes longer than the library allows
@given(st.integers(0, 5), st.integers(1, 4))
def test_offset_is_the_best_for_the_share(seed: int, step: int) -> None:
    """With ties, too: scores are whole numbers."""
    new_items = made(20, 12, np.array([4, 9, 13]))
    result = np.random.default_rng(seed).integers(0, 3 * step, (12, 20)).astype(np.float32)

    def distance(offset: float) -> float:
        shifted = result.copy()
        shifted[:, new_items.positions] += np.float32(offset)
        return abs(new_items.share_in(rank(sliced(shifted), new_items.warm, 20)) - new_items.share)

    chosen_distance = distance(offset_for(sliced(result), new_items))
    assert chosen_distance <= min(distance(offset) for offset in np.arange(-15, 15, 0.25) + 0.125) + 1e-9


def test_offset_does_not_depend_on_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    unsliced = adjust(*ranked(3.0), NEW_ITEMS)
    monkeypatch.setattr(metrics, "_CELLS", 7 * _ITEMS)
    parts = adjust(*ranked(3.0), NEW_ITEMS)
    assert (unsliced.offset, unsliced.share) == (parts.offset, parts.share)
    assert (unsliced.cold.ranks == parts.cold.ranks).all()


def test_constant_scores_and_short_lists_are_adjusted() -> None:
    same = np.broadcast_to(np.arange(_ITEMS, dtype=np.float32), (_CASES, _ITEMS))
    popular = adjust(sliced(same), sliced(same), NEW_ITEMS)
    assert 0 <= popular.share <= 0.2
    few = made(8, 20, np.array([1, 5]))  # six items are left: each list has both new ones whatever the offset
    short = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    assert adjust(sliced(short), sliced(short), few).share == pytest.approx(2 / 6)


def test_pair_has_both_figures_at_the_share_and_as_ranked() -> None:
    evaluation = judged({TEACHER: ranked(100.0)})
    pair = cold_pairs(evaluation)[TEACHER]
    levelled = evaluation.adjusted[TEACHER]
    assert [pair.own_share, pair.share] == pytest.approx([0.6, levelled.share])
    assert pair.own_cold.mean > 1.5 * pair.cold.mean
    assert pair.own_ids.mean < pair.ids.mean
    assert (pair.cold.mean, pair.ids.mean) == (levelled.cold.ndcg.mean(), levelled.ids.ndcg.mean())
    assert f"cold {pair.cold} and ids {pair.ids} with new items in 10.00% of the lists; unadjusted" in str(pair)


def judged(subjects: dict[str, tuple[Score, Score]]) -> Evaluation:
    """An evaluation of subjects that are known by their scores on ids and cold."""
    ground = SimpleNamespace(
        seed=1,
        new_items=NEW_ITEMS,
        tasks=SimpleNamespace(warm=NEW_ITEMS.warm, cold=NEW_ITEMS.cold),
        figures=lambda row: {task: mean_interval(answers.ndcg, 1) for task, answers in row.items()},
    )
    evaluation = Evaluation(cast(EvaluationContext, ground))
    for name, (ids, cold) in subjects.items():
        answers = {"ids": rank(ids, NEW_ITEMS.warm, _ITEMS), "cold": rank(cold, NEW_ITEMS.cold, _ITEMS)}
        evaluation.results[name] = answers
        evaluation.adjust(name, {"ids": ids, "cold": cold})
    return evaluation


def test_popularity_is_added_to_the_cosine() -> None:
    items = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    plain = EvaluatedRecommender(lambda _: items, lambda users: np.array([u.vectors[-1] for u in users]), items, 9)
    counts = np.array([0, 9, 99])
    both = add_popularity(plain, counts)
    user = both.rank([UserSequence([both.items[0]], [EventKind.ITEM])])
    assert (user @ both.items.T)[0] == pytest.approx([1, 0.1 * np.log(10), 0.6 + 0.1 * np.log(100)])
    query = both.rank([UserSequence([items[1]], [EventKind.QUERY])])  # an encoder's vectors have no such entry
    assert (query @ both.items.T)[0] == pytest.approx([0, 1 + 0.1 * np.log(10), 0.8 + 0.1 * np.log(100)])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny teacher with its static student, up to stage `verify`; one item is kept from training."""
    tiny_job = job(tmp_path_factory.mktemp("tiny"), "--students", "static", "--allow-lossy")
    often = [np.roll(np.arange(24, dtype=np.int64), -user)[:20] for user in range(24)]
    users = [{"gender": "F" if user % 2 else "M"} for user in range(24)]
    replace(dataset(), histories=often, users=users).save(tiny_job.folder("data"))
    run_stages(tiny_job, "finetune", "blend", "distil", "onnx", "quantise")
    return tiny_job


@pytest.fixture(scope="module")
def quality(tiny: StoppedJob, tmp_path_factory: pytest.TempPathFactory) -> Quality:
    output = tmp_path_factory.mktemp("verify")
    verify.run(tiny, output)
    return Quality.model_validate_json((output / QUALITY_FILE).read_text())


def test_every_recommender_has_cold_figures_and_those_of_the_default_match_its_tasks(quality: Quality) -> None:
    default = quality.default["cpu"].name
    assert quality.cold_share == pytest.approx(1 / 24)
    students = {record.name for record in quality.variants}
    assert quality.cold_pairs.keys() == {FROZEN, FROZEN_POPULAR, RANKER_ALONE, TEXT_ALONE, TEACHER, *students}
    assert quality.cold_pairs[default].own_cold == quality.tasks[default]["cold"]
    for name in (FROZEN, FROZEN_POPULAR, TEACHER, default):
        assert f"{name}: {quality.cold_pairs[name]}" in remarks(quality)
    assert as_json(quality)["cold_pairs"][TEACHER] == quality.cold_pairs[TEACHER].model_dump()


def test_every_task_is_compared_and_cold_at_the_same_share(quality: Quality) -> None:
    assert quality.tasks[FROZEN_POPULAR].keys() == quality.tasks[FROZEN].keys()
    assert {comparison.task for comparison in quality.comparisons} == quality.tasks[FROZEN].keys()
    assert [comparison.task for comparison in quality.comparisons if comparison.is_level] == ["cold"]


def test_groups_are_compared_with_popularity(quality: Quality) -> None:
    result = [(element.task, element.group, element.baseline) for element in quality.group_comparisons]
    groups = ("events 18 to 18", "gender F", "gender M")
    assert result == [(task, group, "popularity") for task in ("ids", "text") for group in groups]


def test_warning_names_each_task_when_the_default_is_not_above_the_baseline(quality: Quality) -> None:
    for comparison in (*quality.comparisons, *quality.group_comparisons):
        is_reported = not comparison.is_above if not comparison.group else comparison.loses
        assert (f"{comparison}." in quality.warnings) == is_reported
    assert {comparison.task for comparison in quality.comparisons} == quality.tasks[TEACHER].keys()
    assert any(not comparison.is_above for comparison in quality.comparisons)  # a tiny teacher is not above all
    assert {*quality.warnings} <= {*remarks(quality)}


def test_users_are_grouped_by_quartiles_of_their_events() -> None:
    assert quarters_of([3, 9, 4, 8, 5, 7, 6, 10]) == [
        *("3 to 4", "9 to 10", "3 to 4", "7 to 8", "5 to 6", "7 to 8", "5 to 6", "9 to 10")
    ]
    assert quarters_of([5] * 4) == ["5 to 5"] * 4
    assert quarters_of([]) == []


def test_cold_gate_is_not_measured_when_cases_are_few(quality: Quality) -> None:
    teacher = quality.teacher
    assert (teacher.gates, teacher.unmeasured, teacher.exception) == ((), (COLD_GATE,), "")
    cases = quality.cases["cold"]
    line = f"teacher: not measured: {COLD_GATE} ({cases} cases have a new item as target, and at least 100 are needed)"
    assert line in remarks(quality)
    console = Console(width=200, record=True, file=io.StringIO())
    show(console, quality)
    assert line in console.export_text()


def test_frozen_encoder_reuses_the_item_vectors_of_finetune(tiny: StoppedJob) -> None:
    """So a large catalogue has it, too: what `finetune` encoded is what the checkpoint says of the same texts."""
    frozen = load_context(tiny).frozen
    assert frozen is not None
    untouched = PooledTexts(tiny.folder("data") / "checkpoint", tiny.settings.plan.max_tokens)
    texts = [*Texts.load(tiny.folder("data")).variants[TextVariant.FULL]]
    np.testing.assert_allclose(frozen.items, plain_encode(untouched)(texts), atol=1e-5)


def test_cold_gate_is_not_measured_when_the_catalogue_is_too_large_for_the_frozen_encoder(
    tiny: StoppedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("stages.baseline_gate", "evaluate.comparisons"):
        monkeypatch.setattr(f"swiftrec.export.{module}.MIN_COLD_CASES", 1)
    few = Evaluation(load_context(tiny))
    few.add_baselines()
    assert cold_fault(few) == ""  # control
    assert FROZEN in few.results
    monkeypatch.setattr(evaluation_context, "_MAX_FROZEN_BYTES", 1000)
    many = Evaluation(load_context(tiny))
    many.add_baselines()
    assert not {FROZEN, FROZEN_POPULAR} & many.results.keys()
    assert cold_fault(many).startswith("the untouched encoder's vectors of 24 items need 0.0 GB, and at most 0.0 GB")
    monkeypatch.setattr(tiny.settings, "allow_lossy", False)
    loaded: list[StoppedJob] = []
    monkeypatch.setattr("swiftrec.export.stages.baseline_gate.load_context", loaded.append)
    check_teacher(tiny)
    assert loaded == []


def test_cold_gate_of_the_teacher_is_recorded_when_cases_suffice(
    tiny: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swiftrec.export.evaluate.comparisons.MIN_COLD_CASES", 1)
    verify.run(tiny, tmp_path)
    result = Quality.model_validate_json((tmp_path / QUALITY_FILE).read_text())
    (gate,) = result.teacher.gates
    assert (gate.gate, gate.threshold, gate.passed) == (COLD_GATE, 0.0, gate.value >= 0)
    assert bool(result.teacher.exception) == (not gate.passed)
    assert as_json(result)["teacher"]["gates"] == (asdict(gate),)


def test_all_results_are_printed_when_every_student_is_refused(
    tiny: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    monkeypatch.setattr(tiny, "console", console)
    monkeypatch.setattr(tiny.settings, "allow_lossy", False)
    monkeypatch.setattr("swiftrec.export.evaluate.selection.QUALITY", Gates(shipped={"overlap": 1.1}, default={}))
    with pytest.raises(GateError, match=r"static-fp32: overlap .*, at least 1\.1"):
        verify.run(tiny, tmp_path)
    assert not list(tmp_path.iterdir())
    printed = console.export_text()
    for name in ("transitions", FROZEN_POPULAR, TEACHER, "static-fp32", "new items in 4.17% of the lists of ids"):
        assert name in printed
