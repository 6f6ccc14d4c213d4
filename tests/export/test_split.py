"""Splits into training, validation and test cases, and the popularity of items in training."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.popularity import interaction_counts, is_trained, popularity
from swiftrec.export.data.queries import SIMILAR, training_queries
from swiftrec.export.data.repeats import Repeats
from swiftrec.export.data.split import (
    Protocol,
    Split,
    always_trained,
    cold_items,
    everything,
    leave_one_out,
    time_split,
    trainable,
)
from swiftrec.export.data.split import split as split_by
from swiftrec.export.data.text_variants import write_texts
from swiftrec.export.data.user_groups import user_groups
from swiftrec.export.errors import DataError
from swiftrec.export.train.training_data import TrainingData
from swiftrec.server.catalogue.blend import item_vectors
from tests.export.tiny import dataset as tiny_dataset

_ITEMS, _USERS = 60, 80


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """80 users who take 20 items each, at times that overlap."""
    rng = np.random.default_rng(3)
    histories = [rng.permutation(_ITEMS)[:20].astype(np.int64) for _ in range(_USERS)]
    times = [np.sort(rng.uniform(u, u + 60, 20)) for u in range(_USERS)]
    items = [DatasetItem(str(n), f"title {n}", f"text {n}", {}) for n in range(_ITEMS)]
    return Dataset(items, histories, ["item"], [], "", "", times)


def trained(split: Split) -> set[int]:
    return set(np.concatenate(split.known).tolist())


@pytest.mark.parametrize("protocol", ["leave-one-out", "time"])
@pytest.mark.parametrize("repeats", ["exclude", "allow"])
def test_interactions_that_always_train_are_never_tested(
    dataset: Dataset, protocol: Protocol, repeats: Repeats
) -> None:
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


def test_items_in_queries_do_not_depend_on_test_interactions(dataset: Dataset) -> None:
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


def test_cold_items_are_in_no_training_history(dataset: Dataset) -> None:
    for split in (leave_one_out(dataset), time_split(dataset)):
        cold = set(split.cold.tolist())
        assert len(cold) == round(0.05 * _ITEMS)
        assert not cold & trained(split)
        assert not cold & set(np.concatenate([*split.warm.histories, split.warm.targets]).tolist())
        assert not cold & set(np.concatenate(split.cold_cases.histories).tolist())
        assert set(split.cold_cases.targets.tolist()) <= cold
    assert set(leave_one_out(dataset).cold) <= trained(leave_one_out(dataset, cold_share=0))  # control


def test_cold_cases_have_the_earlier_interactions_as_history(dataset: Dataset) -> None:
    unseen = leave_one_out(dataset).cold_cases
    for user, history, target in zip(unseen.users, unseen.histories, unseen.targets, strict=True):
        whole = dataset.histories[user].tolist()
        assert len(history) >= 2
        assert all(whole.index(n) < whole.index(target) for n in history.tolist())


def test_cold_items_do_not_depend_on_other_settings(dataset: Dataset) -> None:
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
    for user, target in zip(split.warm.users, split.warm.targets, strict=True):
        latest[int(user)] = float(dataset.times[user][dataset.histories[user].tolist().index(target)])
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


def test_users_with_two_or_three_interactions_are_not_tested() -> None:
    histories = [np.arange(n, dtype=np.int64) + 3 for n in (1, 2, 3, 4, 9)]
    times = [h.astype(np.float64) for h in histories]
    ratings = [(1.0 + h % 5).astype(np.float64) for h in histories]
    made = Dataset(
        [DatasetItem(str(n), "", "", {}) for n in range(12)], histories, [], [], "", "", [*times], [], [*ratings]
    )
    with pytest.raises(DataError, match="found 1"):
        leave_one_out(replace(made, histories=histories[:4], times=times[:4], ratings=ratings[:4]))
    split = leave_one_out(made, cold_share=0)
    assert [len(h) for h in split.train] == [2, 7, 2, 3]
    assert [len(w) for w in split.relevance] == [2, 7, 2, 3]
    assert [h.tolist() for h in split.train[2:]] == [histories[1].tolist(), histories[2].tolist()]
    assert split.relevance[3][0] == split.relevance[1][0]  # the same rating
    assert [len(h) for h in split.known] == [3, 8, 2, 3]
    assert len(split.validation.targets) == len(split.validation.histories) == len(split.warm.targets) == 2


def test_user_with_two_interactions_before_the_cut_is_not_tested(dataset: Dataset) -> None:
    cut = np.quantile(np.concatenate(dataset.times), 0.8)
    counts = [int((t <= cut).sum()) for t in dataset.times]
    early = counts.index(max(counts))
    last = dataset.times[early].copy()
    last[2:] += 1e6
    moved = replace(dataset, times=[last if n == early else t for n, t in enumerate(dataset.times)])
    split = time_split(moved, cold_share=0)
    short = split.train[len(split.valid) :]
    assert dataset.histories[early][:2].tolist() in [h.tolist() for h in short]
    assert len(split.known) == len(split.train) > len(split.validation.targets)


_TINY_ITEMS = 24


def rows(*items: list[int]) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return [np.array(row, dtype=np.int64) for row in items]


def test_item_of_a_user_with_a_single_interaction_is_cold() -> None:
    """Item 23 has an event that teaches nothing; item 22 has one more than training knows."""
    without = [history[(history != 23) & (history != 22)] for history in tiny_dataset().histories]
    data = replace(tiny_dataset(), histories=[*without, *rows([22, 0], [22], [23])])
    split = everything(data)
    counts = popularity(data.histories, trainable(data.histories), _TINY_ITEMS)
    assert counts[[22, 23]].tolist() == [2, 0]
    assert interaction_counts(data.histories, _TINY_ITEMS)[23] == 1
    world = TrainingData(split, texts := write_texts(data, 0), texts, None)
    assert (world.has_events.numpy() == (counts > 0)).all()
    vectors = item_vectors(np.ones((_TINY_ITEMS, 1), np.float32), np.empty((_TINY_ITEMS, 0), np.float32), counts)
    assert (vectors[:, -1] == ~world.has_events.numpy()).all()  # the entry that new items are raised by


def test_item_that_is_only_a_validation_target_is_cold() -> None:
    histories = [np.where(history == 23, 22, history) for history in tiny_dataset().histories]
    histories[3][-2] = 23
    split = leave_one_out(replace(tiny_dataset(), histories=histories), cold_share=0)
    assert 23 in split.valid
    counts = popularity(split.known, split.train, _TINY_ITEMS)
    assert interaction_counts(split.known, _TINY_ITEMS)[23] == 1
    assert counts[23] == 0
    assert ((counts > 0) == is_trained(split.train, _TINY_ITEMS)).all()
    assert (
        counts[is_trained(split.train, _TINY_ITEMS)] == interaction_counts(split.known, _TINY_ITEMS)[counts > 0]
    ).all()


def test_popularity_without_histories_is_zero() -> None:
    assert not interaction_counts([], 3).any()
    assert not popularity([], [], 3).any()
