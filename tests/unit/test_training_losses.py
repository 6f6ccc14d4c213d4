"""The losses against what they estimate, and guides against the teachers that they average."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from export.data.phrases import Phrase
from export.train.examples import PhraseSampler, Windows
from export.train.guide import Guides
from export.train.targets import Among, Negatives, sampled_softmax, softmax, squared_error
from export.train.teacher import Teacher

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


def test_phrases_come_with_items_that_they_fit_by_popularity() -> None:
    popularity, worth = np.array([1.0, 99.0, 0.0, 5.0]), np.array([0.2, 0.4, 0, 1], np.float32)
    phrases = [Phrase("a", [0, 1, 2]), Phrase("nothing", [2]), Phrase("b", [3])]
    asked = PhraseSampler(phrases, popularity, worth).draw(400, np.random.default_rng(0))
    of_a, of_b = asked.item[asked.phrase == 0], asked.item[asked.phrase == 2]
    assert set(of_a.tolist()) <= {0, 1}
    assert set(of_b.tolist()) == {3}
    assert len(of_a) + len(of_b) == 400
    assert asked.worth.tolist() == worth[asked.item].tolist()
    assert (of_a == 1).float().mean() > 0.9
    assert len(PhraseSampler([], popularity, worth).draw(4, np.random.default_rng(0)).phrase) == 0


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
