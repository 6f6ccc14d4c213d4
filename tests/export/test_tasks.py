"""The tasks: their requests, and that each kind of request is measured."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.repeats import Repeats
from swiftrec.export.data.split import COLD_SHARE, Protocol, Split, leave_one_out, split
from swiftrec.export.data.text_variants import write_texts
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.evaluation import other_protocol
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.requests import RequestVectors
from swiftrec.export.evaluate.tasks import TASKS, Tasks, make_tasks
from swiftrec.server.catalogue.sparse import NO_BOOSTS
from swiftrec.server.models.networks import UserSequence

_ITEMS, _USERS = 40, 60


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    rng = np.random.default_rng(5)
    items = [
        DatasetItem(
            str(n), f"wonderful story {n}", f"wonderful story {n} of colours", {"colour": [f"colour{n}", "plain"]}
        )
        for n in range(_ITEMS)
    ]
    histories = [rng.permutation(_ITEMS)[:15].astype(np.int64) for _ in range(_USERS)]
    return Dataset(items, histories, ["story"], [], "", "")


@pytest.fixture(scope="module")
def tasks(dataset: Dataset) -> Tasks:
    return make_tasks(dataset, write_texts(dataset, 1), leave_one_out(dataset), 1)


def test_same_seed_makes_the_same_requests(dataset: Dataset, tasks: Tasks) -> None:
    again = make_tasks(dataset, write_texts(dataset, 1), leave_one_out(dataset), 1)
    assert (again.noisy, again.queries["query"].texts) == (tasks.noisy, tasks.queries["query"].texts)
    other = make_tasks(dataset, write_texts(dataset, 1), leave_one_out(dataset), 2)
    assert other.noisy != tasks.noisy


def test_query_names_the_category_and_not_the_item(tasks: Tasks) -> None:
    for query, expected in zip(tasks.queries["query"].texts, tasks.warm.targets.tolist(), strict=True):
        assert sorted(query.split()) == sorted([f"colour{expected}", "plain", "story"])


def test_noise_changes_every_title_and_is_deterministic(tasks: Tasks) -> None:
    assert all(noisy != title for noisy, title in zip(tasks.noisy, tasks.titles, strict=True))
    assert corrupt("wonderful story", random.Random(3)) == corrupt("wonderful story", random.Random(3))


def test_large_catalogue_has_fewer_requests(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.evaluate.tasks._MIN_CASES", 10)
    monkeypatch.setattr("swiftrec.export.evaluate.tasks._MAX_SCORES", 20 * _ITEMS)
    few = make_tasks(dataset, write_texts(dataset, 1), leave_one_out(dataset), 1)
    assert len(few.warm.targets) == len(few.warm.histories) == len(few.queries["query"].texts) == 20


def test_other_protocol_has_fewer_requests_too(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ground = cast(EvaluationContext, SimpleNamespace(dataset=dataset, seed=1, split=leave_one_out(dataset)))
    assert other_protocol(ground, "time").cases == _USERS
    monkeypatch.setattr("swiftrec.export.evaluate.tasks._MIN_CASES", 10)
    monkeypatch.setattr("swiftrec.export.evaluate.tasks._MAX_SCORES", 20 * _ITEMS)
    few = other_protocol(ground, "time")
    assert few.cases == 20
    assert few.ndcg.keys() >= {"popularity", "EASE"}


@pytest.mark.parametrize("share", [0.0, COLD_SHARE])
def test_other_protocol_holds_out_nothing_when_the_recommender_is_adopted(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    changed = []

    def seen(data: Dataset, name: Protocol, *, cold_share: float, repeats: Repeats) -> Split:
        changed.append(cold_share)
        return split(data, name, cold_share=cold_share, repeats=repeats)

    monkeypatch.setattr("swiftrec.export.evaluate.evaluation.split", seen)
    parts = leave_one_out(dataset, cold_share=share)
    other_protocol(cast(EvaluationContext, SimpleNamespace(dataset=dataset, seed=1, split=parts)), "time")
    assert changed == [share]


class Oracle:
    """Knows each text: vectors are one-hot by the item that a text is about, and the next item is the last one's."""

    def __init__(self, dataset: Dataset, tasks: Tasks) -> None:
        self.place = {title: n for n, title in enumerate(tasks.titles)}
        self.place |= {noisy: n for n, noisy in enumerate(tasks.noisy)}
        self.items = np.eye(len(dataset.items), dtype=np.float32)

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        return self.items[[self.place.get(text, 0) for text in texts]]

    @staticmethod
    def rank(users: list[UserSequence]) -> NDArray[np.float32]:
        return np.array([user.vectors[-1] for user in users])


def test_texts_resolve_to_their_items_and_cold_items_have_their_shipped_vectors(dataset: Dataset, tasks: Tasks) -> None:
    oracle = Oracle(dataset, tasks)
    subject = EvaluatedRecommender(oracle.encode, oracle.rank, oracle.items, 10)
    result = subject.rank_tasks(tasks, subject.of_items(tasks))
    assert (result["ids"].ranks == result["text"].ranks).all()
    assert (result["ids"].ranks == result["noisy"].ranks).all()
    expected = RequestVectors(oracle.items[tasks.cold.targets], [NO_BOOSTS] * len(tasks.cold.targets))
    assert (subject.rank_tasks(tasks, subject.of_items(tasks) | {"cold": expected})["cold"].ranks == 0).all()
    hidden = oracle.items.copy()
    hidden[leave_one_out(dataset).cold] = 0
    blind = replace(subject, items=hidden)
    assert (blind.rank_tasks(tasks, subject.of_items(tasks) | {"cold": expected})["cold"].ranks > 0).any()  # control


def test_known_titles_are_not_encoded_again(dataset: Dataset, tasks: Tasks) -> None:
    oracle = Oracle(dataset, tasks)
    requests: list[str] = []

    def encode(texts: list[str]) -> NDArray[np.float32]:
        requests.extend(texts)
        return oracle.encode(texts)

    subject = EvaluatedRecommender(encode, oracle.rank, oracle.items, 10, lambda n: oracle.items[n])
    subject.rank_tasks(tasks, subject.of_items(tasks))
    assert len(requests) == len({*requests})  # a title is encoded as a request, and not for a history again
    assert {*requests} >= {text for query in tasks.queries.values() for text in query.texts}


def test_no_cold_task_is_made_without_cold_cases(dataset: Dataset) -> None:
    none = make_tasks(dataset, write_texts(dataset, 1), leave_one_out(dataset, cold_share=0), 1)
    oracle = Oracle(dataset, none)
    subject = EvaluatedRecommender(oracle.encode, oracle.rank, oracle.items, 10)
    assert {*subject.rank_tasks(none, subject.of_items(none))} == {*TASKS} - {"cold", *none.absent}
