"""The memory: what followed what, what stands beside what, and that rows stay bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.blend import memory as fitted
from swiftrec.export.blend.memory import ease, fit_memory, followers, gram
from swiftrec.export.data.order import UNORDERED
from swiftrec.server.catalogue.sparse import DECAY, EVENTS, Entries, Memory
from swiftrec.server.errors import BundleError
from tests.peak import peak_of

_ITEMS = 6
_HISTORIES = [np.array(h, dtype=np.int64) for h in ([0, 1, 2], [0, 1, 3], [4], [])]


def dense(found: Entries) -> NDArray[np.float64]:
    return np.bincount(found.positions, found.values, _ITEMS).astype(np.float64)


def test_an_item_that_came_next_counts_more_than_one_that_came_later() -> None:
    chances = dense(fit_memory(_HISTORIES, _ITEMS).next_chances([np.array([0])]))
    assert chances[1] > chances[2] == chances[3] > 0
    assert chances[[0, 4, 5]].tolist() == [0, 0, 0]


def test_pairs_are_counted_within_the_window_only() -> None:
    pairs, counts = followers([np.arange(8)], 8)
    table = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
    assert table[0 * 8 + 1] == 1
    assert 0 < table[0 * 8 + 5] < table[0 * 8 + 2] < 1
    assert 0 * 8 + 6 not in table
    assert 1 * 8 + 0 not in table


def test_the_last_events_count_most_and_old_ones_not_at_all() -> None:
    memory = fit_memory([np.array([0, 1]), np.array([2, 3])], _ITEMS)
    chances = dense(memory.next_chances([np.array([0, 2])]))
    assert chances[1] == pytest.approx(DECAY * chances[3])
    assert dense(memory.next_chances([np.array([0, *[4] * EVENTS])]))[1] == 0


def test_neighbours_are_those_of_the_linear_model(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    histories = [np.unique(random.integers(0, _ITEMS, 4)) for _ in range(200)]
    matrix = np.zeros((len(histories), _ITEMS), np.float32)
    for row, history in zip(matrix, histories, strict=True):
        row[history] = 1
    counts = gram(histories, np.arange(_ITEMS), _ITEMS)
    np.testing.assert_array_equal(counts, matrix.T @ matrix)
    weights = ease(counts)
    np.testing.assert_allclose(
        dense(fit_memory(histories, _ITEMS).near_weights([np.array([2])])), weights[2], atol=1e-6
    )
    monkeypatch.setattr(fitted, "_NEIGHBOURS", 2)
    kept = fit_memory(histories, _ITEMS).near_weights([np.array([2])])
    assert sorted(kept.positions.tolist()) == sorted(np.argsort(-np.abs(weights[2]))[:2].tolist())


@pytest.mark.parametrize("rows", [7, 512])
def test_a_square_matrix_that_is_looked_at_in_parts_is_the_whole_one(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted, "_ROWS", rows)
    random, items = np.random.default_rng(2), 30
    histories = [random.permutation(items)[: random.integers(1, 9)] for _ in range(300)]
    matrix = np.zeros((len(histories), items))
    for row, history in zip(matrix, histories, strict=True):
        row[history] = 1
    counts = gram(histories, np.arange(items), items)
    np.testing.assert_array_equal(counts, matrix.T @ matrix)
    inverse = np.linalg.inv(matrix.T @ matrix + 500 * np.eye(items))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    weights = ease(counts)
    np.testing.assert_allclose(weights, wanted, atol=1e-6)
    near = fit_memory(histories, items).near_weights([np.array([20])])
    assert near.positions.tolist() == np.flatnonzero(weights[20]).tolist()
    np.testing.assert_allclose(near.values, weights[20][near.positions], atol=1e-6)


def test_fitting_holds_little_beside_one_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    random, items = np.random.default_rng(2), 1_024
    histories = [random.permutation(items)[:8] for _ in range(2_000)]
    monkeypatch.setattr(fitted, "_ROWS", 64)
    monkeypatch.setattr(fitted, "_NEIGHBOURS", 8)
    assert peak_of(lambda: fit_memory(histories, items, UNORDERED)) < 2 * 4 * items**2


def test_rows_are_bounded_by_their_strongest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "_FOLLOWERS", 2)
    memory = fit_memory([np.array([0, 1, 2, 3, 4])], _ITEMS)
    assert memory.next_chances([np.array([0])]).positions.tolist() == [1, 2]


def test_only_the_most_taken_items_have_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "MAX_SQUARE", 2)
    memory = fit_memory(_HISTORIES, _ITEMS)
    assert set(memory.near_weights([np.arange(_ITEMS)]).positions.tolist()) == {0, 1}


@pytest.mark.parametrize("histories", [[], [np.empty(0, np.int64)]])
def test_without_events_there_is_nothing_to_remember(histories: list[NDArray[np.int64]]) -> None:
    for memory in (fit_memory(histories, _ITEMS), Memory.empty(_ITEMS)):
        found = memory.next_chances([np.array([0, 1])]), memory.near_weights([np.array([0])])
        assert [len(part.positions) for part in found] == [0, 0]


def test_a_saved_memory_answers_the_same(tmp_path: Path) -> None:
    memory = fit_memory(_HISTORIES, _ITEMS)
    memory.save(tmp_path)
    found = Memory.load(tmp_path, _ITEMS)
    events = np.array([0, 1])
    assert dense(found.next_chances([events])).tolist() == dense(memory.next_chances([events])).tolist()
    assert dense(found.near_weights([events])).tolist() == dense(memory.near_weights([events])).tolist()


def test_without_order_nothing_follows_but_neighbours_stay() -> None:
    memory = fit_memory(_HISTORIES, _ITEMS, "none")
    assert len(memory.next_chances([np.array([0, 1])]).positions) == 0
    assert len(memory.near_weights([np.array([0])]).positions)


def test_a_table_without_a_row_for_each_item_is_refused(tmp_path: Path) -> None:
    fit_memory(_HISTORIES, _ITEMS).save(tmp_path)
    with pytest.raises(BundleError, match=rf"transitions-starts.npy: {_ITEMS} rows for {_ITEMS + 1} items"):
        Memory.load(tmp_path, _ITEMS + 1)
