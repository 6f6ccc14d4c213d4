"""Who trains and who tests: nothing that is tested has been trained on."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from swiftrec.export.data.dataset import Dataset, Item
from swiftrec.export.data.queries import SIMILAR, training_queries
from swiftrec.export.data.repeats import Repeats
from swiftrec.export.data.split import Protocol, Split, always_trained, cold_items, leave_one_out, time_split
from swiftrec.export.data.split import split as split_by
from swiftrec.export.data.user_groups import user_groups
from swiftrec.export.errors import DataError

_ITEMS, _USERS = 60, 80


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """80 users who take 20 items each, at times that overlap."""
    rng = np.random.default_rng(3)
    histories = [rng.permutation(_ITEMS)[:20].astype(np.int64) for _ in range(_USERS)]
    times = [np.sort(rng.uniform(u, u + 60, 20)) for u in range(_USERS)]
    items = [Item(str(n), f"title {n}", f"text {n}", {}) for n in range(_ITEMS)]
    return Dataset(items, histories, ["item"], [], "", "", times)


def trained(split: Split) -> set[int]:
    return set(np.concatenate(split.known).tolist())


@pytest.mark.parametrize("protocol", ["leave-one-out", "time"])
@pytest.mark.parametrize("repeats", ["exclude", "allow"])
def test_what_always_trains_tests_by_no_protocol(dataset: Dataset, protocol: Protocol, repeats: Repeats) -> None:
    again = [np.append(history, history[:3]) for history in dataset.histories]
    times = [np.append(row, row[-1] + np.arange(1, 4)) for row in dataset.times]
    whole = replace(dataset, histories=again, times=times)
    parts, surely = split_by(whole, protocol, repeats=repeats), always_trained(whole)
    left: dict[int, int] = {}
    for history in parts.train:
        for item in history.tolist():
            left[item] = left.get(item, 0) + 1
    counts = np.bincount(np.concatenate(surely), minlength=_ITEMS)
    assert counts.sum() > _USERS
    assert all(count <= left.get(item, 0) for item, count in enumerate(counts.tolist()))
    assert len(surely) == _USERS


def test_items_that_requests_name_do_not_follow_from_what_tests(dataset: Dataset) -> None:
    """The last two events of each user may be of any item: the texts are the same."""
    data = replace(dataset, times=[])
    cold = {*cold_items(data, 0.05).tolist()}
    swapped = [np.append(history[:-2], history[:-3:-1]) for history in data.histories]
    assert named(replace(data, histories=swapped)) == named(data)
    other = next(n for n in range(_ITEMS) if n not in cold)
    moved = [np.append(h[:-2][h[:-2] != other], [other, other]) for h in data.histories]
    lost = named(replace(data, histories=moved))
    assert f"items like title {other}" not in lost
    assert f"similar to title {other}" not in lost


def named(data: Dataset) -> list[str]:
    """The requests for what is like an item, in their order."""
    return [phrase.text for phrase in training_queries(data, random.Random(1)) if phrase.kind == SIMILAR]


def test_cold_items_are_in_nothing_that_trains_or_is_shown(dataset: Dataset) -> None:
    for split in (leave_one_out(dataset), time_split(dataset)):
        cold = set(split.cold.tolist())
        assert len(cold) == round(0.05 * _ITEMS)
        assert not cold & trained(split)
        assert not cold & set(np.concatenate([*split.warm.histories, split.warm.wanted]).tolist())
        assert not cold & set(np.concatenate(split.unseen.histories).tolist())
        assert set(split.unseen.wanted.tolist()) <= cold
    assert set(leave_one_out(dataset).cold) <= trained(leave_one_out(dataset, cold_share=0))  # control


def test_cold_cases_have_what_the_user_took_before(dataset: Dataset) -> None:
    unseen = leave_one_out(dataset).unseen
    for user, history, wanted in zip(unseen.users, unseen.histories, unseen.wanted, strict=True):
        whole = dataset.histories[user].tolist()
        assert len(history) >= 2
        assert all(whole.index(n) < whole.index(wanted) for n in history.tolist())


def test_the_same_items_are_cold_whatever_else_changes(dataset: Dataset) -> None:
    assert (cold_items(dataset, 0.05) == leave_one_out(dataset).cold).all()
    assert (leave_one_out(dataset).cold == time_split(dataset).cold).all()


def test_nothing_after_the_cut_trains(dataset: Dataset) -> None:
    split = time_split(dataset)
    cut = np.quantile(np.concatenate(dataset.times), 0.8)
    latest = {int(n): 0.0 for n in range(_USERS)}
    sizes = [len(h) for h in split.known]
    kept = [np.sum((t <= cut) & ~np.isin(h, split.cold)) for h, t in zip(dataset.histories, dataset.times, strict=True)]
    assert sorted(sizes) == sorted(n for n in kept if n > 1)
    assert len(split.valid) == sum(n > 2 for n in kept)
    for user, wanted in zip(split.warm.users, split.warm.wanted, strict=True):
        latest[int(user)] = float(dataset.times[user][dataset.histories[user].tolist().index(wanted)])
        assert latest[int(user)] > cut


def test_time_split_without_times_says_so(dataset: Dataset) -> None:
    with pytest.raises(DataError, match="needs the time"):
        time_split(Dataset(dataset.items, dataset.histories, [], [], "", ""))


def test_numbers_of_many_values_become_quarters() -> None:
    rows = [{"user_id": n, "age": 10 + n, "gender": "FM"[n % 2]} for n in range(40)]
    groups = user_groups(rows, [str(n) for n in range(41)])
    assert groups[0] == {"age": "10 to 19", "gender": "F"}
    assert groups[39] == {"age": "40 to 49", "gender": "M"}
    assert groups[40] == {}  # a user whom the table does not have


def test_users_with_two_or_three_events_only_train() -> None:
    histories = [np.arange(n, dtype=np.int64) + 3 for n in (1, 2, 3, 4, 9)]
    times = [h.astype(np.float64) for h in histories]
    ratings = [(1.0 + h % 5).astype(np.float64) for h in histories]
    made = Dataset([Item(str(n), "", "", {}) for n in range(12)], histories, [], [], "", "", [*times], [], [*ratings])
    with pytest.raises(DataError, match="found 1"):
        leave_one_out(replace(made, histories=histories[:4], times=times[:4], ratings=ratings[:4]))
    split = leave_one_out(made, cold_share=0)
    assert [len(h) for h in split.train] == [2, 7, 2, 3]
    assert [len(w) for w in split.worth] == [2, 7, 2, 3]
    assert [h.tolist() for h in split.train[2:]] == [histories[1].tolist(), histories[2].tolist()]
    assert split.worth[3][0] == split.worth[1][0]  # the same rating
    assert [len(h) for h in split.known] == [3, 8, 2, 3]
    assert len(split.validation.wanted) == len(split.validation.histories) == len(split.warm.wanted) == 2


def test_user_with_two_events_before_the_cut_only_trains(dataset: Dataset) -> None:
    cut = np.quantile(np.concatenate(dataset.times), 0.8)
    counts = [int((t <= cut).sum()) for t in dataset.times]
    early = counts.index(max(counts))
    last = dataset.times[early].copy()
    last[2:] += 1e6
    moved = replace(dataset, times=[last if n == early else t for n, t in enumerate(dataset.times)])
    split = time_split(moved, cold_share=0)
    short = split.train[len(split.valid) :]
    assert dataset.histories[early][:2].tolist() in [h.tolist() for h in short]
    assert len(split.known) == len(split.train) > len(split.validation.wanted)
