"""Items that nobody took: they stand where their texts say, and are shown as often as such items are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.train import cold_start
from swiftrec.export.train.cold_start import (
    FOLDS,
    STRENGTHS,
    Choice,
    Crowd,
    Placed,
    Vectors,
    place_again,
    place_newcomers,
    raising,
)

_ITEMS, _NEW, _USERS, _WIDTH, _HIDDEN = 600, 150, 300, 8, 24


@dataclass(frozen=True)
class Village:
    """Item vectors are a map of the texts and something that no text says, a popularity above all."""

    texts: Vectors
    items: Vectors
    is_taken: NDArray[np.bool_]
    crowd: Crowd

    def share(self, placed: Vectors) -> float:
        """What newcomers have of the softmax over all items."""
        items = self.items.copy()
        items[~self.is_taken] = placed
        scores = np.exp(self.crowd.vectors @ items.T)
        return float((scores[:, ~self.is_taken].sum(1) / scores.sum(1)).mean())

    def read(self, rows: NDArray[np.int64]) -> Vectors:
        """The vectors of these items' texts."""
        found: Vectors = self.texts[rows]
        return found

    def every(self, seed: int = 0) -> Placed:
        """Every item as if nobody had taken it."""
        found = place_newcomers(self.read, self.items, self.is_taken, self.crowd, seed)
        assert found is not None
        return found

    def placed(self, seed: int = 0) -> Vectors:
        """The items that nobody took."""
        found: Vectors = self.every(seed).vectors[~self.is_taken]
        return found


def village(unsaid: float = 1.0) -> Village:
    rng = np.random.default_rng(3)
    texts = rng.normal(size=(_ITEMS, _HIDDEN)).astype(np.float32)
    items = texts @ rng.normal(size=(_HIDDEN, _WIDTH)) / 5 + 0.2 * unsaid * rng.normal(size=(_ITEMS, _WIDTH))
    items[:, 0] += 1.5 * unsaid * rng.normal(size=_ITEMS)
    users = rng.normal(size=(_USERS, _WIDTH))
    users[:, 0] = 1  # everybody likes what is popular
    is_taken = rng.permutation(_ITEMS) >= _NEW
    chances = np.exp(users @ items.T) * is_taken
    wanted = np.array([rng.choice(_ITEMS, p=row / row.sum()) for row in chances])
    histories = [rng.choice(np.flatnonzero(is_taken & (np.arange(_ITEMS) != w)), 5, replace=False) for w in wanted]
    return Village(texts, items.astype(np.float32), is_taken, Crowd(users.astype(np.float32), histories, wanted))


def test_newcomers_stand_where_their_texts_say() -> None:
    made = village()
    told = made.items[~made.is_taken][:, 1:], made.placed()[:, 1:]  # popularity is no matter of the text
    errors = ((told[0] - told[1]) ** 2).sum() / ((told[0] - told[0].mean(0)) ** 2).sum()
    assert errors < 0.1


def test_newcomers_have_the_share_that_such_items_have(monkeypatch: pytest.MonkeyPatch) -> None:
    made = village()
    wanted, found = made.share(made.items[~made.is_taken]), made.share(made.placed())
    assert 0.7 < found / wanted < 1.4
    monkeypatch.setattr(cold_start, "raising", lambda users: np.zeros(users.shape[1], np.float32))
    assert made.share(made.placed()) / wanted < 0.6  # control: the map alone draws everything towards the mean


def test_strength_follows_from_how_much_texts_say(monkeypatch: pytest.MonkeyPatch) -> None:
    clear, dull = village(unsaid=0.0), village()
    dull = replace(dull, texts=np.random.default_rng(1).normal(size=dull.texts.shape).astype(np.float32))
    for made, strength in ((clear, STRENGTHS[0]), (dull, STRENGTHS[-1])):
        chosen = made.placed()
        with monkeypatch.context() as patch:
            patch.setattr(cold_start, "STRENGTHS", (strength,))
            np.testing.assert_array_equal(chosen, made.placed())


def test_nothing_is_read_of_the_newcomers_but_their_texts() -> None:
    made = village()
    hidden = made.items.copy()
    hidden[~made.is_taken] = np.nan
    np.testing.assert_array_equal(replace(made, items=hidden).placed(), made.placed())


def test_wanted_item_is_never_masked() -> None:
    made = village()
    again = [np.append(h, w) for h, w in zip(made.crowd.masked, made.crowd.wanted, strict=True)]
    placed = replace(made, crowd=replace(made.crowd, masked=again)).placed()
    np.testing.assert_allclose(placed, made.placed(), atol=1e-5)


def test_wanted_items_that_nobody_took_in_training_say_nothing() -> None:
    made, rng = village(), np.random.default_rng(0)
    wanted = made.crowd.wanted.copy()
    wanted[::2] = rng.choice(np.flatnonzero(~made.is_taken), len(wanted[::2]))
    assert np.isfinite(replace(made, crowd=replace(made.crowd, wanted=wanted)).placed()).all()
    none = replace(made.crowd, wanted=np.full(_USERS, np.flatnonzero(~made.is_taken)[0]))
    assert place_newcomers(made.read, made.items, made.is_taken, none, 0) is None


def test_taken_items_are_placed_by_a_map_that_has_not_seen_them() -> None:
    made = village()
    every = made.every()
    assert every.vectors.shape == made.items.shape
    assert every.vectors.dtype == np.float32
    assert (every.folds[~made.is_taken] == -1).all()
    assert {*every.folds[made.is_taken].tolist()} == {*range(FOLDS)}
    taken = int(np.flatnonzero(made.is_taken)[0])
    moved = made.items.copy()
    moved[taken] += 50  # in its fold nothing changes, elsewhere the map is another
    found = replace(made, items=moved).every()
    same = every.folds == every.folds[taken]
    map_only = found.vectors - every.vectors
    assert np.abs(map_only[same] - map_only[taken]).max() < np.abs(map_only[made.is_taken & ~same]).max()


def test_placed_items_are_read_as_they_were_saved(tmp_path: Path) -> None:
    made = village().every()
    assert Placed.load(tmp_path) is None
    made.save(tmp_path)
    found = Placed.load(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found.vectors, made.vectors)
    np.testing.assert_array_equal(found.folds, made.folds)
    assert found.choice == made.choice == Choice.load(tmp_path)


def test_ranker_that_was_trained_again_gets_the_strength_and_the_rise_that_were_chosen() -> None:
    made = village()
    every, users = made.every(), made.crowd.vectors
    assert every.choice is not None
    again = place_again(made.read, made.items, made.is_taken, users, every.choice)
    np.testing.assert_allclose(again, every.vectors[~made.is_taken], atol=1e-4)
    higher = replace(every.choice, rise=every.choice.rise + 1)
    raised = place_again(made.read, made.items, made.is_taken, users, higher)
    np.testing.assert_allclose((raised - again) @ users.T, 1, atol=0.05)
    weaker = place_again(made.read, made.items, made.is_taken, users, replace(every.choice, strength=100.0))
    assert weaker.std(0).max() < again.std(0).max() / 10


def test_too_few_items_to_learn_from_place_nothing() -> None:
    made = village()
    few = np.zeros(_ITEMS, dtype=bool)
    few[: 2 * FOLDS - 1] = True
    assert place_newcomers(made.read, made.items, few, made.crowd, 0) is None


def test_texts_that_are_all_the_same_put_every_newcomer_in_one_place() -> None:
    made = village()
    placed = replace(made, texts=np.ones_like(made.texts)).placed()
    assert np.isfinite(placed).all()
    np.testing.assert_allclose(placed, np.broadcast_to(placed[0], placed.shape), atol=1e-5)


def test_a_third_of_the_users_says_about_the_same() -> None:
    made = village()
    part = Crowd(made.crowd.vectors[::3], made.crowd.masked[::3], made.crowd.wanted[::3])
    assert 0.6 < made.share(replace(made, crowd=part).placed()) / made.share(made.placed()) < 1.6


def test_blocks_of_texts_and_slices_of_scores_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = village(), list[int]()
    whole = made.placed()

    def read(rows: NDArray[np.int64]) -> Vectors:
        asked.append(len(rows))
        return made.read(rows)

    sliced = cold_start._scores
    sizes: list[int] = []

    def scores(*args: Any) -> Iterator[Any]:  # noqa: ANN401
        for part, found in sliced(*args):
            sizes.append(len(found))
            yield part, found

    monkeypatch.setattr(cold_start, "_BLOCK", 32)
    monkeypatch.setattr(cold_start, "_CELLS", 7 * (_ITEMS - _NEW))
    monkeypatch.setattr(cold_start, "_scores", scores)
    found = place_newcomers(read, made.items, made.is_taken, made.crowd, 0)
    assert found is not None
    np.testing.assert_allclose(found.vectors[~made.is_taken], whole, atol=1e-5)
    assert (max(asked), max(sizes)) == (32, 7)


def test_what_raises_does_so_for_every_user_alike() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=_WIDTH)
    normal /= np.linalg.norm(normal)
    users = rng.normal(size=(200, _WIDTH))
    users += np.outer(0.5 - users @ normal, normal)  # into a plane, as behind a layer normalisation
    np.testing.assert_allclose(users @ raising(users.astype(np.float32)), 1, atol=0.02)
