"""Items without interactions: vectors are mapped from texts, and they are recommended as often as trained ones."""

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
    ColdMap,
    ColdVectors,
    ValidationUsers,
    boost_vector,
    map_cold_items,
    map_cold_items_again,
)
from swiftrec.server.arrays import Vectors

_ITEMS, _NEW, _USERS, _WIDTH, _HIDDEN = 600, 150, 300, 8, 24


@dataclass(frozen=True)
class Village:
    """Item vectors are a map of the texts and something that no text says, a popularity above all."""

    texts: Vectors
    items: Vectors
    has_events: NDArray[np.bool_]
    users: ValidationUsers

    def share(self, mapped: Vectors) -> float:
        """The share of cold items in the softmax over all items."""
        items = self.items.copy()
        items[~self.has_events] = mapped
        scores = np.exp(self.users.vectors @ items.T)
        return float((scores[:, ~self.has_events].sum(1) / scores.sum(1)).mean())

    def read(self, rows: NDArray[np.int64]) -> Vectors:
        """The vectors of these items' texts."""
        result: Vectors = self.texts[rows]
        return result

    def every(self, seed: int = 0) -> ColdVectors:
        """Every item as if it had no interactions."""
        result = map_cold_items(self.read, self.items, self.has_events, self.users, seed)
        assert result is not None
        return result

    def mapped(self, seed: int = 0) -> Vectors:
        """The vectors of the items without interactions."""
        result: Vectors = self.every(seed).vectors[~self.has_events]
        return result


def village(unsaid: float = 1.0) -> Village:
    rng = np.random.default_rng(3)
    texts = rng.normal(size=(_ITEMS, _HIDDEN)).astype(np.float32)
    items = texts @ rng.normal(size=(_HIDDEN, _WIDTH)) / 5 + 0.2 * unsaid * rng.normal(size=(_ITEMS, _WIDTH))
    items[:, 0] += 1.5 * unsaid * rng.normal(size=_ITEMS)
    users = rng.normal(size=(_USERS, _WIDTH))
    users[:, 0] = 1  # everybody likes what is popular
    has_events = rng.permutation(_ITEMS) >= _NEW
    chances = np.exp(users @ items.T) * has_events
    targets = np.array([rng.choice(_ITEMS, p=row / row.sum()) for row in chances])
    histories = [rng.choice(np.flatnonzero(has_events & (np.arange(_ITEMS) != w)), 5, replace=False) for w in targets]
    return Village(
        texts, items.astype(np.float32), has_events, ValidationUsers(users.astype(np.float32), histories, targets)
    )


def test_mapped_vectors_of_cold_items_are_near_their_trained_ones() -> None:
    example = village()
    true, mapped = (
        example.items[~example.has_events][:, 1:],
        example.mapped()[:, 1:],
    )  # texts do not tell the popularity
    errors = ((true - mapped) ** 2).sum() / ((true - true.mean(0)) ** 2).sum()
    assert errors < 0.1


def test_mapped_cold_items_are_recommended_as_often_as_trained_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    example = village()
    targets, result = example.share(example.items[~example.has_events]), example.share(example.mapped())
    assert 0.7 < result / targets < 1.4
    monkeypatch.setattr(cold_start, "boost_vector", lambda users: np.zeros(users.shape[1], np.float32))
    assert example.share(example.mapped()) / targets < 0.6  # control: the map alone draws everything towards the mean


def test_strength_depends_on_the_information_in_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    clear, dull = village(unsaid=0.0), village()
    dull = replace(dull, texts=np.random.default_rng(1).normal(size=dull.texts.shape).astype(np.float32))
    for made, strength in ((clear, STRENGTHS[0]), (dull, STRENGTHS[-1])):
        chosen = made.mapped()
        with monkeypatch.context() as patch:
            patch.setattr(cold_start, "STRENGTHS", (strength,))
            np.testing.assert_array_equal(chosen, made.mapped())


def test_only_the_texts_of_cold_items_are_read() -> None:
    example = village()
    hidden = example.items.copy()
    hidden[~example.has_events] = np.nan
    np.testing.assert_array_equal(replace(example, items=hidden).mapped(), example.mapped())


def test_target_is_never_masked() -> None:
    example = village()
    again = [np.append(h, w) for h, w in zip(example.users.masked, example.users.targets, strict=True)]
    mapped = replace(example, users=replace(example.users, masked=again)).mapped()
    np.testing.assert_allclose(mapped, example.mapped(), atol=1e-5)


def test_targets_without_training_events_are_left_out() -> None:
    made, rng = village(), np.random.default_rng(0)
    targets = made.users.targets.copy()
    targets[::2] = rng.choice(np.flatnonzero(~made.has_events), len(targets[::2]))
    assert np.isfinite(replace(made, users=replace(made.users, targets=targets)).mapped()).all()
    none = replace(made.users, targets=np.full(_USERS, np.flatnonzero(~made.has_events)[0]))
    assert map_cold_items(made.read, made.items, made.has_events, none, 0) is None


def test_items_with_interactions_are_mapped_by_a_fit_without_them() -> None:
    example = village()
    every = example.every()
    assert every.vectors.shape == example.items.shape
    assert every.vectors.dtype == np.float32
    assert (every.folds[~example.has_events] == -1).all()
    assert {*every.folds[example.has_events].tolist()} == {*range(FOLDS)}
    changed = int(np.flatnonzero(example.has_events)[0])
    moved = example.items.copy()
    moved[changed] += 50  # changes the map of every fold but its own
    result = replace(example, items=moved).every()
    same = every.folds == every.folds[changed]
    map_only = result.vectors - every.vectors
    assert np.abs(map_only[same] - map_only[changed]).max() < np.abs(map_only[example.has_events & ~same]).max()


def test_saved_vectors_are_read_back(tmp_path: Path) -> None:
    example = village().every()
    assert ColdVectors.load(tmp_path) is None
    example.save(tmp_path)
    result = ColdVectors.load(tmp_path)
    assert result is not None
    np.testing.assert_array_equal(result.vectors, example.vectors)
    np.testing.assert_array_equal(result.folds, example.folds)
    assert result.cold_map == example.cold_map == ColdMap.load(tmp_path)


def test_retrained_ranker_keeps_the_chosen_strength_and_boost() -> None:
    example = village()
    every, users = example.every(), example.users.vectors
    assert every.cold_map is not None
    again = map_cold_items_again(example.read, example.items, example.has_events, users, every.cold_map)
    np.testing.assert_allclose(again, every.vectors[~example.has_events], atol=1e-4)
    higher = replace(every.cold_map, boost=every.cold_map.boost + 1)
    raised = map_cold_items_again(example.read, example.items, example.has_events, users, higher)
    np.testing.assert_allclose((raised - again) @ users.T, 1, atol=0.05)
    weaker = map_cold_items_again(
        example.read, example.items, example.has_events, users, replace(every.cold_map, strength=100.0)
    )
    assert weaker.std(0).max() < again.std(0).max() / 10


def test_no_map_is_fitted_when_items_with_interactions_are_few() -> None:
    example = village()
    few = np.zeros(_ITEMS, dtype=bool)
    few[: 2 * FOLDS - 1] = True
    assert map_cold_items(example.read, example.items, few, example.users, 0) is None


def test_identical_texts_give_all_cold_items_the_same_vector() -> None:
    example = village()
    mapped = replace(example, texts=np.ones_like(example.texts)).mapped()
    assert np.isfinite(mapped).all()
    np.testing.assert_allclose(mapped, np.broadcast_to(mapped[0], mapped.shape), atol=1e-5)


def test_strength_is_similar_with_a_third_of_the_users() -> None:
    example = village()
    part = ValidationUsers(example.users.vectors[::3], example.users.masked[::3], example.users.targets[::3])
    assert 0.6 < example.share(replace(example, users=part).mapped()) / example.share(example.mapped()) < 1.6


def test_results_do_not_depend_on_block_and_slice_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, sizes_read = village(), list[int]()
    whole = made.mapped()

    def read(rows: NDArray[np.int64]) -> Vectors:
        sizes_read.append(len(rows))
        return made.read(rows)

    sliced = cold_start._scores
    sizes: list[int] = []

    def scores(*args: Any) -> Iterator[Any]:  # noqa: ANN401
        for part, result in sliced(*args):
            sizes.append(len(result))
            yield part, result

    monkeypatch.setattr(cold_start, "_BLOCK_ROWS", 32)
    monkeypatch.setattr(cold_start, "_BLOCK_SCORES", 7 * (_ITEMS - _NEW))
    monkeypatch.setattr(cold_start, "_scores", scores)
    result = map_cold_items(read, made.items, made.has_events, made.users, 0)
    assert result is not None
    np.testing.assert_allclose(result.vectors[~made.has_events], whole, atol=1e-5)
    assert (max(sizes_read), max(sizes)) == (32, 7)


def test_boost_is_the_same_for_every_user() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=_WIDTH)
    normal /= np.linalg.norm(normal)
    users = rng.normal(size=(200, _WIDTH))
    users += np.outer(0.5 - users @ normal, normal)  # into a plane, as behind a layer normalisation
    np.testing.assert_allclose(users @ boost_vector(users.astype(np.float32)), 1, atol=0.02)
