"""The losses against what they estimate, and guides against the teachers that they average."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from swiftrec.export.data.queries import ATTRIBUTE, SIMILAR, Phrase
from swiftrec.export.data.text_variants import TextRows, TextVariant
from swiftrec.export.models.teacher import Bank, Teacher
from swiftrec.export.train.ensemble import Guides
from swiftrec.export.train.losses import Batch, Step
from swiftrec.export.train.samplers import ALONE, BEHIND, Asked, LoneQuerySampler, Queries, QueryKind, Windows
from swiftrec.export.train.targets import Among, Negatives, sampled_softmax, softmax, squared_error

_ITEMS = 40


@pytest.fixture
def space() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Users, items, taken, and a popularity that is far from even."""
    torch.manual_seed(0)
    return torch.randn(6, 8), torch.randn(_ITEMS, 8), torch.arange(6) * 3, (torch.arange(_ITEMS).float() + 1) ** 2


def test_sampled_softmax_comes_to_the_full_one_with_many_negatives(
    space: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    users, items, taken, popularity = space
    among = Negatives(popularity, 400_000).draw(taken)
    assert among.drawn is not None
    place = among.place[taken]
    found = sampled_softmax(users, items[among.items], place, among.drawn)
    assert found.item() == pytest.approx(softmax(users, items, taken).item(), rel=0.01)
    uncorrected = sampled_softmax(users, items[among.items], place, torch.ones_like(among.drawn) * 400_000 / _ITEMS)
    assert uncorrected.item() != pytest.approx(softmax(users, items, taken).item(), rel=0.05)


def test_needed_items_that_were_not_drawn_are_no_negatives() -> None:
    popularity = torch.zeros(_ITEMS)
    popularity[:4] = 1
    among = Negatives(popularity, 16).draw(torch.tensor([[20, 30]]))
    assert among.drawn is not None
    assert among.place[20] >= 0
    assert among.drawn[among.place[20]] == 0
    users, items = torch.ones(1, 2), torch.ones(len(among.items), 2)
    items[among.place[30]] = 1e3  # would win against everything
    loss = sampled_softmax(users, items, among.place[torch.tensor([20])], among.drawn)
    assert loss.item() == pytest.approx(math.log(1 + among.drawn.sum().item()), rel=1e-4)


def test_squared_error_is_zero_only_for_one_and_zeros() -> None:
    items, taken = torch.eye(3), torch.tensor([0, 2])
    assert squared_error(torch.eye(3)[[0, 2]], items, taken, None, torch.ones(2)).item() == 0
    assert squared_error(torch.eye(3)[[0, 1]], items, taken, None, torch.ones(2)).item() > 0.4


def test_squared_error_wants_what_was_taken_as_much_as_it_is_worth() -> None:
    worth = torch.tensor([1.0, 0.2])
    users, items, taken = torch.diag(worth), torch.eye(2), torch.tensor([0, 1])
    assert squared_error(users, items, taken, None, worth).item() == 0
    assert squared_error(users, items, taken, None, torch.ones(2)).item() == pytest.approx(0.8**2 / 2)


def test_queries_without_a_history_come_with_items_that_they_fit_by_popularity() -> None:
    popularity, worth = np.array([1.0, 99.0, 0.0, 5.0]), np.array([0.2, 0.4, 0, 1], np.float32)
    phrases = [Phrase("a", [0, 1, 2]), Phrase("nothing", [2]), Phrase("b", [3]), Phrase("like b", [3], SIMILAR)]
    asked = LoneQuerySampler(phrases, popularity, worth, TextRows(len(popularity), 4)).draw(
        2_000, np.random.default_rng(0)
    )
    phrase = asked.text - 4 * len(popularity)
    of_a, of_b = asked.item[phrase == 0], asked.item[phrase == 2]
    assert {*of_a.tolist()} == {0, 1}
    assert {*of_b.tolist()} == {3}
    assert {*phrase[phrase >= 0].tolist()} == {0, 2}
    assert asked.worth.tolist() == worth[asked.item].tolist()
    assert (of_a == 1).float().mean() > 0.9
    written = asked.text[phrase < 0]
    assert (written % len(popularity)).tolist() == asked.item[phrase < 0].tolist()
    assert {*(written // len(popularity)).tolist()} == {TextVariant.TITLE, TextVariant.TITLE_WORDS, TextVariant.DROPPED}
    assert 2 not in asked.item  # which nobody took
    alone = LoneQuerySampler([], popularity, worth, TextRows(len(popularity), 4)).draw(9, np.random.default_rng(0))
    assert (alone.text < 4 * len(popularity)).all()


def test_kinds_of_queries_have_the_shares_of_the_table() -> None:
    assert [sum(ALONE.values()), sum(BEHIND.values())] == pytest.approx([1, 1])
    sampler = LoneQuerySampler([Phrase("a", [0])], np.ones(2), np.ones(2, np.float32), TextRows(2, 6))
    way = (sampler.draw(4_000, np.random.default_rng(1)).text // 2).tolist()
    rows: dict[QueryKind, list[int]] = {
        TextVariant.TITLE: [1],
        TextVariant.TITLE_WORDS: [2],
        TextVariant.DROPPED: [3, 4, 5],
        ATTRIBUTE: [6],
    }
    total = sum(ALONE[kind] for kind in rows)
    for kind, ways in rows.items():
        share = sum(one in ways for one in way) / len(way)
        assert share == pytest.approx(ALONE[kind] / total, abs=0.03)
    assert {3, 4, 5} <= {*way}  # ways with noise that a training adds are read, too


def test_nearest_items_of_a_query_are_those_of_its_own_vector() -> None:
    torch.manual_seed(2)
    teacher, pooled = Teacher(4, 8, 6, 5), torch.randn(2, 6, 4)
    bank = Bank(pooled, pooled[0, :1])
    among, empty = Among.all(torch.ones(6, dtype=torch.bool)), torch.zeros(1, 1, dtype=torch.int64)
    asked = Asked(torch.tensor([3, 6 + 4, 12]), torch.tensor([3, 4, 0]), torch.ones(3))
    batch = Batch(
        Windows(empty, empty, empty, torch.ones(1, 1)),
        Queries(empty, empty[0], empty[0], empty[0], torch.ones(1)),
        asked,
        among,
        torch.zeros(6, dtype=torch.int64),
        np.empty(0, np.int64),
    )
    step = Step(teacher, bank, batch, "softmax")
    near = step._near(asked.text)
    torch.testing.assert_close(near.sum(1), torch.ones(3))
    cosines = functional.cosine_similarity(pooled[1, 4], pooled[0], dim=-1)
    assert near[1].argmax() == cosines.argmax()
    assert near[[0, 2]].argmax(1).tolist() == [3, 0]
    assert torch.isfinite(step.total())


def test_guides_answer_with_the_mean_of_their_probabilities() -> None:
    torch.manual_seed(1)
    pairs = [(Teacher(4, 8, _ITEMS, 5), torch.randn(_ITEMS, 8)) for _ in range(2)]
    items = torch.tensor([[1, 2, 3], [4, 5, 0]])
    batch = Windows(items, torch.tensor([[2, 3, 4], [5, 6, -100]]), (items > 0).long(), torch.ones(2, 3))
    found = Guides(pairs).chances(batch, Among.all(torch.ones(_ITEMS, dtype=torch.bool)))
    kinds = torch.zeros_like(items)
    alone = [
        functional.softmax(teacher.ranker(vectors[items], kinds, batch.mask)[batch.targets >= 0] @ vectors.T, dim=-1)
        for teacher, vectors in pairs
    ]
    torch.testing.assert_close(found, (alone[0] + alone[1]) / 2)
    assert found.shape == (5, _ITEMS)
    assert not any(p.requires_grad for teacher, _ in pairs for p in teacher.parameters())


def test_items_that_nobody_took_are_not_looked_at() -> None:
    among = Among.all(torch.tensor([True, False, True, True]))
    assert among.items.tolist() == [0, 2, 3]
    assert among.place.tolist() == [0, -1, 1, 2]
    drawn = Negatives(torch.tensor([3.0, 0.0, 1.0, 1.0]), 500).draw(torch.tensor([3]))
    assert drawn.items.tolist() == [0, 2, 3]
