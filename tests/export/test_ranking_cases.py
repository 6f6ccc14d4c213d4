"""What is masked is never shown and never a hit; what is evaluated of a split can be shown."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.export.data.dataset import Dataset, Item
from swiftrec.export.data.repeats import Repeats, counted, is_first
from swiftrec.export.data.split import Cases, Split, split
from swiftrec.export.errors import DataError
from swiftrec.export.evaluate.metrics import TOP, rank

_PROTOCOLS: tuple[Literal["leave-one-out", "time"], ...] = ("leave-one-out", "time")


@st.composite
def asked(draw: st.DrawFn) -> tuple[Cases, np.ndarray]:
    """Cases whose histories may hold the wanted item and leave few items, and scores of few different values."""
    items, number = draw(st.integers(1, 25)), draw(st.integers(1, 6))
    item = st.integers(0, items - 1)
    histories = [np.array(draw(st.lists(item, max_size=30)), dtype=np.int64) for _ in range(number)]
    wanted = np.array(draw(st.lists(item, min_size=number, max_size=number)), dtype=np.int64)
    repeats: Repeats = draw(st.sampled_from(("exclude", "allow")))
    values = st.lists(st.integers(-2, 2), min_size=items * number, max_size=items * number)
    scores = np.array(draw(values), dtype=np.float32).reshape(number, items)
    return Cases(np.arange(number), histories, wanted, repeats), scores


@given(asked())
def test_hit_is_what_the_list_shows_and_the_list_shows_nothing_masked(made: tuple[Cases, np.ndarray]) -> None:
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
    items = [Item(str(n), f"title {n}", f"text {n}", {}) for n in range(12)]
    rows = [np.array(history, dtype=np.int64) for history in histories]
    times = [np.arange(len(row), dtype=np.float64) * 3 + n for n, row in enumerate(rows)]
    ratings = [(row % 5 + 1).astype(np.float64) for row in rows]
    return Dataset(items, rows, ["item"], [], "", "", times, ratings=ratings)


histories_of_users = st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=25), min_size=2, max_size=8)


@given(histories_of_users, st.sampled_from(_PROTOCOLS))
def test_no_target_stands_in_its_own_history_where_repeats_are_excluded(
    histories: list[list[int]], protocol: Literal["leave-one-out", "time"]
) -> None:
    made = dataset(histories)
    try:
        parts: Split = split(made, protocol)
    except DataError:
        return
    for cases in (parts.warm, parts.cold_cases, parts.validation):
        for history, wanted in zip(cases.histories, cases.targets, strict=True):
            assert wanted not in history
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
def test_repeats_are_targets_where_they_are_allowed(protocol: Literal["leave-one-out", "time"]) -> None:
    made = dataset([[0, 1, 2, 0, 1, 2, 0, 1, 2]] * 4)
    parts = split(made, protocol, cold_share=0, repeats="allow")
    assert all(wanted in history for history, wanted in zip(parts.warm.histories, parts.warm.targets, strict=True))
    assert [len(hidden) for cases in (parts.warm, parts.validation) for hidden in cases.masked] == [0] * 8
    scores = np.tile(np.arange(12, dtype=np.float32), (4, 1))
    assert (rank(lambda part: scores[part], parts.warm, 12).ranks == 11 - parts.warm.targets).all()
