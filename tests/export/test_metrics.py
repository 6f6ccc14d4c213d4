"""Metrics: ranks, masks, intervals, shares and exposure, and baselines against plain ways to compute the same."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.repeats import Repeats, counted, is_first
from swiftrec.export.data.split import Cases, Split, split
from swiftrec.export.errors import DataError, ExportError
from swiftrec.export.evaluate import metrics
from swiftrec.export.evaluate.baselines import fit_baselines
from swiftrec.export.evaluate.beyond_accuracy import by_popularity, exposure, gini
from swiftrec.export.evaluate.metrics import (
    NO_ITEM,
    TOP,
    RankedCases,
    best,
    common,
    mean_interval,
    ndcg,
    overlap,
    random_ndcg,
    rank,
    share,
)

_HISTORIES = [np.array(h) for h in ([0, 1, 2], [0, 1, 3], [1, 2, 0], [0, 1])]


def cases(histories: list[list[int]], expected: list[int]) -> Cases:
    return Cases(np.arange(len(expected)), [np.array(h, dtype=np.int64) for h in histories], np.array(expected))


def test_rank_excludes_the_history_and_breaks_ties_by_position() -> None:
    scores = np.array([[5, 3, 3, 1]] * 2, dtype=np.float32)
    ranked = rank(lambda part: scores[part], cases([[0], [0]], [1, 2]), 4)
    assert ranked.ranks.tolist() == [0, 1]
    assert ranked.ndcg.tolist() == [1.0, pytest.approx(1 / np.log2(3))]
    assert ranked.top[0].tolist() == [1, 2, 3, *[NO_ITEM] * 7]
    assert [row.tolist() for row in ranked.lists] == [[1, 2, 3]] * 2
    assert scores[0, 0] == 5  # the caller's array stays as it was


def test_target_beyond_rank_10_counts_only_for_mrr() -> None:
    ranked = RankedCases(np.array([9, 10]), np.empty((2, 10), np.int64))
    assert ranked.recall.tolist() == [1.0, 0.0]
    assert ranked.ndcg.tolist() == [pytest.approx(1 / np.log2(11)), 0.0]
    assert ranked.reciprocal.tolist() == [pytest.approx(0.1), pytest.approx(1 / 11)]


def test_ranks_do_not_depend_on_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).integers(0, 6, (40, 30)).astype(np.float32)
    requests = cases([[n % 30] for n in range(40)], [(n + 1) % 30 for n in range(40)])
    whole = rank(lambda part: scores[part], requests, 30)
    monkeypatch.setattr(metrics, "_CELLS", 90)
    sliced = rank(lambda part: scores[part], requests, 30)
    assert (whole.ranks == sliced.ranks).all()
    assert (whole.top == sliced.top).all()


def test_single_row_is_ranked_as_within_a_batch() -> None:
    scores = np.array([5, 3, 3, 1], dtype=np.float32)
    assert ndcg(scores, np.array([0]), 2) == pytest.approx(1 / np.log2(3))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_best_is_a_stable_sort(values: list[int]) -> None:
    scores = np.array(values, dtype=np.float32)
    assert best(scores).tolist() == np.argsort(-scores, kind="stable")[:10].tolist()


def test_interval_holds_the_mean_and_narrows_with_cases() -> None:
    rng = np.random.default_rng(0)
    few, many = mean_interval(rng.random(50), seed=1), mean_interval(rng.random(5_000), seed=1)
    assert few.low < few.mean < few.high
    assert many.high - many.low < (few.high - few.low) / 5


def test_share_is_computed_over_the_same_cases() -> None:
    whole = np.random.default_rng(0).random(300)
    same = share(0.9 * whole, whole, seed=1)
    assert same is not None
    assert [same.mean, same.low, same.high] == pytest.approx([0.9] * 3)
    shuffled = share(0.9 * whole[::-1], whole, seed=1)
    assert shuffled is not None
    assert shuffled.high - shuffled.low > 0.05  # control: other cases, a wide interval


def test_share_is_undefined_when_the_teacher_has_no_hit() -> None:
    assert share(np.zeros(3), np.zeros(3), seed=1) is None
    assert share(np.ones(3), np.zeros(3), seed=1) is None


def test_overlap_is_of_sets() -> None:
    a = RankedCases(np.zeros(1, np.int64), np.array([[1, 2, 3, 4]]))
    b = RankedCases(np.zeros(1, np.int64), np.array([[4, 3, 9, 8]]))
    assert overlap(a, b) == 0.5
    assert overlap(a, a) == 1.0


def test_overlap_of_short_lists_is_of_the_items_in_them() -> None:
    short = np.full((2, 10), NO_ITEM)
    other = short.copy()
    short[0, :2], other[0, :3] = [4, 2], [2, 7, 9]
    a, b = (RankedCases(np.zeros(2, np.int64), top) for top in (short, other))
    assert overlap(a, b) == pytest.approx((1 / 3 + 1) / 2)  # two empty lists are the same
    assert common(["a", "b"], ["a", "b", "c", "d"]) == 0.5  # what is answered beyond the expected list counts, too


def test_score_that_is_not_a_number_is_refused() -> None:
    scores = np.array([[1, np.nan, 0]], dtype=np.float32)
    with pytest.raises(ExportError, match="a score is NaN"):
        rank(lambda part: scores[part], cases([[0]], [1]), 3)


def test_gini_is_0_for_even_lists_and_near_1_for_one_item() -> None:
    assert gini(np.full(50, 3)) == pytest.approx(0)
    assert gini(np.array([0] * 99 + [5])) == pytest.approx(0.99)


def test_exposure_of_a_known_list() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = vectors[0]
    shown = exposure([np.array([0, 1]), np.array([0, 2])], np.array([3, 1, 0, 0]), vectors)
    assert shown.coverage == 0.75
    assert shown.diversity == pytest.approx(0.5)  # a list of two alike, and one of two that have nothing in common
    assert shown.novelty == pytest.approx(np.mean([1, 2, 1, 3]))
    assert by_popularity(np.array([0, 0, 9, 5]), np.arange(10)[::-1]) == [0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.25]


def test_exposure_of_short_and_empty_lists() -> None:
    vectors, counts = np.eye(4, dtype=np.float32), np.array([3, 1, 0, 0])
    shown = exposure([np.array([0, 1]), np.array([2]), np.empty(0, np.int64)], counts, vectors)
    assert (shown.coverage, shown.diversity) == (0.75, 1.0)  # a list of one item has no diversity, and is no 0
    nothing = exposure([np.empty(0, np.int64)], counts, vectors)
    assert (nothing.coverage, nothing.gini, nothing.diversity, nothing.novelty) == (0, 0, 0, 0)
    assert nothing.by_popularity == [0] * 10


def test_baselines_give_what_the_plain_formulas_give() -> None:
    matrix = np.zeros((4, 5))
    for row, history in zip(matrix, _HISTORIES, strict=True):
        row[history] = 1
    inverse = np.linalg.inv(matrix.T @ matrix + 500 * np.eye(5))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    fitted = fit_baselines(_HISTORIES, 5)
    assert fitted["EASE"](_HISTORIES) == pytest.approx(matrix @ weights, abs=1e-6)
    assert fitted["popularity"](_HISTORIES[:1]).tolist() == [[4, 4, 2, 1, 0]]
    after_1 = fitted["transitions"]([np.array([1])])[0]
    assert after_1[[2, 3, 4]] == pytest.approx([2 / 8, 1 / 8, 0])


@pytest.mark.parametrize("rows", [2, 512])
def test_item_knn_is_the_sum_of_the_nearest_cosines(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.evaluate.baselines._KNN_ROWS", rows)
    monkeypatch.setattr("swiftrec.export.evaluate.baselines._KNN_NEIGHBOURS", 2)
    matrix = np.zeros((4, 5))
    for row, history in zip(matrix, _HISTORIES, strict=True):
        row[history] = 1
    norms = np.linalg.norm(matrix, axis=0) + 1e-9
    cosine = matrix.T @ matrix / norms[:, None] / norms
    np.fill_diagonal(cosine, 0)
    cosine[cosine < np.sort(cosine, axis=1)[:, -2][:, None]] = 0
    knn = fit_baselines(_HISTORIES, 5)["item kNN"]
    known = np.array([0, 1, 2, 3])  # the last one has no interactions
    assert knn(_HISTORIES)[:, known] == pytest.approx((matrix @ cosine.T)[:, known], abs=1e-6)


def test_square_baselines_know_only_the_most_popular_items_of_a_large_catalogue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fit_baselines(_HISTORIES, 5)
    monkeypatch.setattr("swiftrec.export.blend.memory.MAX_SQUARE", 3)
    part = fit_baselines(_HISTORIES, 5)
    for name in ("EASE", "item kNN"):
        requests = [np.array([0, 1])]
        assert whole[name](requests)[0, 3] != 0
        assert part[name](requests)[0, 3:].tolist() == [0, 0]
        assert part[name](requests)[0, 2] != 0


def test_chance_is_the_mean_over_every_place() -> None:
    every = [ndcg(np.arange(30, 0, -1, dtype=np.float32), np.empty(0, np.int64), expected) for expected in range(30)]
    assert random_ndcg(30) == pytest.approx(np.mean(every))
    assert random_ndcg(2) == pytest.approx((1 + 1 / np.log2(3)) / 2)


_PROTOCOLS: tuple[Literal["leave-one-out", "time"], ...] = ("leave-one-out", "time")


@st.composite
def requests(draw: st.DrawFn) -> tuple[Cases, np.ndarray]:
    """Cases whose histories may contain the target and leave few items, and scores of few different values."""
    items, number = draw(st.integers(1, 25)), draw(st.integers(1, 6))
    item = st.integers(0, items - 1)
    histories = [np.array(draw(st.lists(item, max_size=30)), dtype=np.int64) for _ in range(number)]
    expected = np.array(draw(st.lists(item, min_size=number, max_size=number)), dtype=np.int64)
    repeats: Repeats = draw(st.sampled_from(("exclude", "allow")))
    values = st.lists(st.integers(-2, 2), min_size=items * number, max_size=items * number)
    scores = np.array(draw(values), dtype=np.float32).reshape(number, items)
    return Cases(np.arange(number), histories, expected, repeats), scores


@given(requests())
def test_hits_are_counted_in_the_list_without_excluded_items(made: tuple[Cases, np.ndarray]) -> None:
    cases, scores = made
    ranked = rank(lambda part: scores[part], cases, scores.shape[1])
    for case, (row, shown) in enumerate(zip(scores, ranked.lists, strict=True)):
        hidden = {*cases.histories[case].tolist()} if cases.repeats == "exclude" else set()
        left = [n for n in np.argsort(-row, kind="stable").tolist() if n not in hidden]
        assert shown.tolist() == left[:TOP]
        is_shown = cases.targets[case] in shown
        assert ranked.recall[case] == is_shown
        assert (ranked.ndcg[case] > 0) == is_shown
        assert (ranked.reciprocal[case] > 1e-9) == (cases.targets[case] in left)


def dataset(histories: list[list[int]]) -> Dataset:
    items = [DatasetItem(str(n), f"title {n}", f"text {n}", {}) for n in range(12)]
    rows = [np.array(history, dtype=np.int64) for history in histories]
    times = [np.arange(len(row), dtype=np.float64) * 3 + n for n, row in enumerate(rows)]
    ratings = [(row % 5 + 1).astype(np.float64) for row in rows]
    return Dataset(items, rows, ["item"], [], "", "", times, ratings=ratings)


histories_of_users = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=25), min_size=2, max_size=8)


@given(histories_of_users, st.sampled_from(_PROTOCOLS))
def test_no_target_is_in_its_history_when_repeats_are_excluded(
    histories: list[list[int]], protocol: Literal["leave-one-out", "time"]
) -> None:
    made = dataset(histories)
    try:
        parts: Split = split(made, protocol)
    except DataError:
        return
    for cases in (parts.warm, parts.cold_cases, parts.validation):
        for history, expected in zip(cases.histories, cases.targets, strict=True):
            assert expected not in history
            assert len({*history.tolist()}) == len(history)
    assert [len(row) for row in parts.train] == [len(row) for row in parts.relevance]


@given(histories_of_users)
def test_first_interaction_counts_with_its_time_and_rating(histories: list[list[int]]) -> None:
    made = dataset(histories)
    once = counted(made, "exclude")
    for before, after, time, rating in zip(made.histories, once.histories, once.times, once.ratings, strict=True):
        assert after.tolist() == [*dict.fromkeys(before.tolist())]
        assert (time % 3 == time[0] % 3).all()
        assert ((time - time[0]) / 3 == np.flatnonzero(is_first(before))).all()
        assert rating.tolist() == (after % 5 + 1.0).tolist()
    assert counted(made, "allow") is made


@pytest.mark.parametrize("protocol", _PROTOCOLS)
def test_repeats_are_targets_when_allowed(protocol: Literal["leave-one-out", "time"]) -> None:
    made = dataset([[0, 1, 2, 0, 1, 2, 0, 1, 2]] * 4)
    parts = split(made, protocol, cold_share=0, repeats="allow")
    assert all(expected in history for history, expected in zip(parts.warm.histories, parts.warm.targets, strict=True))
    assert [len(hidden) for cases in (parts.warm, parts.validation) for hidden in cases.masked] == [0] * 8
    scores = np.tile(np.arange(12, dtype=np.float32), (4, 1))
    assert (rank(lambda part: scores[part], parts.warm, 12).ranks == 11 - parts.warm.targets).all()
