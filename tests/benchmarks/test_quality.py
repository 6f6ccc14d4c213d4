"""Recommenders of other libraries: the files of the exchange, the choice of settings, and the figures of lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.quality import tuning
from swiftrec.benchmarks.quality.evaluation import BundleEvaluation
from swiftrec.benchmarks.quality.exchange import (
    LIST_LENGTH,
    HyperparameterTrial,
    ItemLists,
    LibraryLists,
    LibraryProblem,
    ndcg,
    without_masked,
)
from swiftrec.benchmarks.quality.figures import own_rows, ranks_of, row_of, table
from swiftrec.export.arrays import Histories
from swiftrec.export.evaluate.metrics import RankedCases
from swiftrec.export.evaluate.ranks import NOT_FOUND
from tests.benchmarks.quality import DISCOUNT, ITEMS, LISTS, MISSES, PROBLEM, TARGETS, answer, lists_of, positions


@pytest.fixture
def evaluation() -> BundleEvaluation:
    """The default variant finds the first target second, the second one first and the third one not."""
    own = np.array([1, 0, NOT_FOUND], dtype=np.int32)
    best = np.zeros(3, dtype=np.int32)
    bundle = BundleId("tiny", "1", "key")
    return BundleEvaluation(bundle, "leave-one-out", 7, "ours", PROBLEM, TARGETS, {"transitions": best, "ours": own})


def test_problem_is_read_as_it_was_written(tmp_path: Path) -> None:
    PROBLEM.save(tmp_path)
    result = LibraryProblem.load(tmp_path)
    assert (result.items, result.masks_history, result.valid.tolist()) == (ITEMS, True, [2, 3])
    assert [h.tolist() for h in result.train] == [[0, 1], [2], [4, 5]]
    assert [h.tolist() for h in result.test] == [[0, 1, 2], [2, 3], []]
    assert [h.tolist() for h in result.validation] == [[0, 1], [2]]
    assert [h.tolist() for h in result.known] == [[0, 1, 2], [2, 3], [4, 5]]


def test_problem_without_test_targets_leaves_this_process(tmp_path: Path) -> None:
    PROBLEM.save(tmp_path)
    (file,) = tmp_path.iterdir()
    with np.load(file, allow_pickle=False) as arrays:
        written = {"items", "masks_history", "train", "train_lengths", "valid", "test", "test_lengths"}
        assert set(arrays.files) == written
        assert all(arrays[name].dtype != object for name in arrays.files)


def test_answer_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = answer(LISTS, LISTS)
    made.save(tmp_path)
    result = LibraryLists.load(tmp_path, "als")
    assert replace(result, lists=()) == replace(made, lists=())
    assert np.array_equal(result.lists, made.lists)


def test_masked_items_and_fillers_are_dropped_from_lists() -> None:
    result = without_masked(np.array([[3, 0, -1, 2], [1, -1, 5, 4]]), [positions(0, 1), positions()])
    assert np.array_equal(result, lists_of([3, 2], [1, 5, 4]))


def test_ndcg_of_lists_is_the_exports() -> None:
    ranked = RankedCases(ranks_of(LISTS, TARGETS), np.empty((3, 0), np.int64))
    assert ndcg(LISTS, TARGETS) == pytest.approx(float(ranked.ndcg.mean()))
    assert ndcg(LISTS, TARGETS) == pytest.approx((1 + DISCOUNT) / 3)


class Scripted:
    """A recommender whose settings name what its list begins with; it records what it is fitted on."""

    def __init__(self) -> None:
        self.fits: list[tuple[int, list[list[int]], int]] = []

    def tune(self, problem: LibraryProblem, seed: int) -> Iterator[HyperparameterTrial]:
        for first in (5, 2, 3):
            lists = self.recommend(problem, {"first": first}, problem.train, problem.validation, seed)
            yield HyperparameterTrial({"first": first}, ndcg(lists, problem.valid))

    def recommend(
        self,
        _problem: LibraryProblem,
        parameters: tuning.Hyperparameters,
        fitted: Histories,
        requests: Histories,
        seed: int,
    ) -> ItemLists:
        self.fits.append((parameters["first"], [h.tolist() for h in fitted], seed))
        return lists_of(*[[parameters["first"]]] * len(requests))


@pytest.mark.parametrize(("is_random", "seeds"), [(True, [7, 8, 9]), (False, [7])])
def test_settings_are_chosen_on_validation_and_fitted_again_on_all_known_events(
    is_random: bool, seeds: list[int]
) -> None:
    scripted = Scripted()
    recommender = tuning.LibraryRecommender("library 1", scripted.tune, scripted.recommend, is_random=is_random)
    result = tuning.make_lists("als", recommender, PROBLEM, [7, 8, 9])
    train, known = [[0, 1], [2], [4, 5]], [[0, 1, 2], [2, 3], [4, 5]]
    tried = [(5, train, 7), (2, train, 7), (3, train, 7)]
    assert result.chosen == {"first": 2}  # as good as 3, and tried before it
    assert [trial.ndcg for trial in result.trials] == pytest.approx([0, 0.5, 0.5])
    assert scripted.fits == tried + [(2, known, seed) for seed in seeds]
    assert result.seeds == seeds
    assert [lists.shape for lists in result.lists] == [(3, LIST_LENGTH)] * len(seeds)


def test_figures_of_lists_are_paired_with_the_default_variant(evaluation: BundleEvaluation) -> None:
    row = row_of(answer(LISTS), evaluation)
    assert row.ndcg.mean == pytest.approx((1 + DISCOUNT) / 3)
    assert row.recall.mean == pytest.approx(2 / 3)
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(0)
    assert row.difference.low < 0 < row.difference.high  # the first case is better, the second worse
    assert row.trials[1] == {"parameters": {"factors": 64}, "ndcg": 0.25}


def test_figures_of_several_seeds_are_means_of_each_case(evaluation: BundleEvaluation) -> None:
    row = row_of(answer(LISTS, MISSES), evaluation)
    assert row.seed_ndcg == pytest.approx([(1 + DISCOUNT) / 3, 0])
    assert row.ndcg.mean == pytest.approx((1 + DISCOUNT) / 6)


def test_own_rows_have_the_recorded_ranks(evaluation: BundleEvaluation) -> None:
    transitions, ours = own_rows(evaluation)
    assert (transitions.subject, transitions.ndcg.mean, transitions.recall.mean) == ("transitions", 1, 1)
    assert transitions.difference is not None
    assert transitions.difference.mean == pytest.approx(1 - (1 + DISCOUNT) / 3)
    assert ours.ndcg.mean == pytest.approx((1 + DISCOUNT) / 3)
    assert ours.difference is None


def test_table_has_the_best_row_first_with_its_intervals_and_seconds(evaluation: BundleEvaluation) -> None:
    rows = [*own_rows(evaluation), row_of(answer(LISTS, MISSES), evaluation)]
    head, *lines = table(rows, "ours").splitlines()
    assert "minus ours" in head
    assert [line.split()[0] for line in lines] == ["transitions", "ours", "als"]
    assert "0.0000 to 0.5436" in lines[2]
    assert re.search(r"-0\.\d{4} \[-\d\.\d{3}, [+-]\d\.\d{3}\]", lines[2])
    assert lines[2].endswith("12 + 1.5")


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        (lists_of([4], [4]), r"als: its lists are \(2, 100\), not \(3, 100\)"),
        (lists_of([4], [ITEMS], [1]), "als: the list of case 1 has an item outside the catalogue"),
        (lists_of([4], [4], [1, 2, 1]), "als: the list of case 2 has an item twice"),
        (lists_of([4, 2], [4], [1]), "als: the list of case 0 has an item of its history"),
    ],
)
def test_lists_that_break_the_rules_of_the_test_are_refused(
    lists: ItemLists, sentence: str, evaluation: BundleEvaluation
) -> None:
    with pytest.raises(RuntimeError, match=sentence):
        row_of(answer(lists), evaluation)


def test_lists_may_repeat_the_history_where_the_test_allows_it(evaluation: BundleEvaluation) -> None:
    """Negative control."""
    allowed = replace(evaluation, problem=replace(PROBLEM, masks_history=False))
    assert row_of(answer(lists_of([4, 2], [4], [1])), allowed).recall.mean == pytest.approx(1 / 3)
