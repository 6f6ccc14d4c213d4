"""Compressed rows, and what is added to the scores of a few items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.catalogue.sparse import (
    NO_BOOSTS,
    SWITCH_OVER,
    Boosts,
    DenseBoosts,
    Entries,
    SparseRows,
    merged,
    summed,
)
from swiftrec.server.errors import BundleError

_ROWS, _ITEMS = 6, 40
_ENTRIES = st.lists(
    st.tuples(st.integers(0, _ROWS - 1), st.integers(0, _ITEMS - 1), st.floats(0.5, 2)),
    unique_by=lambda entry: entry[:2],
)


def rows_of(entries: list[tuple[int, int, float]]) -> SparseRows:
    rows, positions, weights = zip(*entries, strict=True) if entries else ((), (), ())
    return SparseRows.of(np.array(rows, np.int64), np.array(positions, np.int64), np.array(weights, float), _ROWS)


def of_one(positions: NDArray[np.signedinteger[Any]], values: NDArray[np.floating[Any]]) -> Entries:
    """Entries of one request."""
    return Entries(np.zeros(len(positions), np.int64), positions, values)


@given(_ENTRIES, st.lists(st.integers(0, _ROWS - 1)))
def test_gathering_gives_the_entries_of_each_row_in_the_order_asked(
    entries: list[tuple[int, int, float]], asked: list[int]
) -> None:
    positions, weights, sizes = rows_of(entries).gather(np.array(asked, np.int64))
    wanted = [sorted((p, np.float32(w)) for r, p, w in entries if r == row) for row in asked]
    assert sizes.tolist() == [len(row) for row in wanted]
    assert list(zip(positions.tolist(), weights, strict=True)) == [pair for row in wanted for pair in row]


@pytest.mark.parametrize("items", [_ITEMS, 10_000])
@given(entries=_ENTRIES)
def test_sums_are_the_same_whatever_the_size_of_the_catalogue(
    items: int, entries: list[tuple[int, int, float]]
) -> None:
    part = of_one(*rows_of(entries).gather(np.arange(_ROWS))[:2])
    (found,) = summed([part], 1, items)
    dense = np.bincount(part.positions, part.values, items)
    assert isinstance(found, DenseBoosts) == (8 * len(part.values) >= items)
    assert found.listed().positions.tolist() == np.flatnonzero(dense).tolist()
    assert found.listed().values.tolist() == dense[dense != 0].astype(np.float32).tolist()
    scores = np.ones(items, dtype=np.float32)
    found.add_to(scores)
    assert scores.tolist() == (np.float32(1) + dense.astype(np.float32)).tolist()
    assert found.at(np.arange(_ITEMS)).tolist() == dense[:_ITEMS].astype(np.float32).tolist()


@pytest.mark.parametrize(("items", "is_dense"), [(SWITCH_OVER - 1, True), (SWITCH_OVER, False)])
def test_no_work_grows_with_a_catalogue_that_has_an_index(items: int, is_dense: bool) -> None:
    random = np.random.default_rng(1)
    positions = random.integers(items, size=30_000)
    weights = random.normal(size=len(positions)).astype(np.float32)
    (found,) = summed([of_one(positions, weights)], 1, items)
    assert isinstance(found, DenseBoosts) is is_dense
    wanted = np.bincount(positions, weights, items)
    np.testing.assert_array_equal(found.at(np.arange(items)), wanted.astype(np.float32))


@pytest.mark.parametrize("items", [9, 90, SWITCH_OVER])
@given(requests=st.lists(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 0.1, 0.3, 1e9, -0.3]))), min_size=1))
def test_sums_of_a_request_are_the_same_bits_alone_and_beside_others(
    items: int, requests: list[list[tuple[int, float]]]
) -> None:
    parts = [of_one(np.array([p for p, _ in one], np.int64), np.array([v for _, v in one])) for one in requests]
    batch = Entries(
        np.arange(len(parts)).repeat([len(part.values) for part in parts]),
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
    together = summed([batch, batch], len(parts), items)
    for one, found in zip(parts, together, strict=True):
        (alone,) = summed([one, one], 1, items)
        assert [list(row) for row in found.listed()] == [list(row) for row in alone.listed()]
    merge = merged(batch, len(parts), items)
    assert not np.isin(0, merge.values)
    assert (np.diff(merge.owners * items + merge.positions) > 0).all()


def test_nothing_is_added_without_boosts() -> None:
    assert NO_BOOSTS.at(np.array([3, 5])).tolist() == [0, 0]
    assert Boosts(np.array([5]), np.array([2], np.float32)).at(np.array([3, 5, 7])).tolist() == [0, 2, 0]


def test_a_saved_table_is_mapped_and_equal(tmp_path: Path) -> None:
    rows = rows_of([(0, 3, 1.0), (5, 0, 0.5)])
    rows.save(tmp_path, "table")
    found = SparseRows.load(tmp_path, "table", _ITEMS)
    assert isinstance(found.positions.base, np.memmap)
    for array, wanted in zip(found.gather(np.arange(_ROWS)), rows.gather(np.arange(_ROWS)), strict=True):
        np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("items", [3, 0])
def test_a_table_that_names_items_beyond_the_catalogue_is_refused(tmp_path: Path, items: int) -> None:
    rows_of([(0, 3, 1.0)]).save(tmp_path, "table")
    with pytest.raises(BundleError, match="do not fit"):
        SparseRows.load(tmp_path, "table", items)


def test_a_missing_or_cut_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"table-starts\.npy: no table"):
        SparseRows.load(tmp_path, "table", _ITEMS)
    damages: dict[str, list[NDArray[Any]]] = {
        "starts": [
            np.array([0, 5]),
            np.array([1, 2]),
            np.array([0, 2, 1, 2]),
            np.empty(0, np.int64),
            np.zeros(2, "i4"),
        ],
        "positions": [np.array([3, -1], np.int32), np.array([3, 40], np.int32), np.zeros((2, 1), np.int32)],
        "weights": [np.ones(1, np.float32), np.array([1, np.nan], np.float32), np.ones(2)],
    }
    for part, arrays in damages.items():
        for array in arrays:
            rows_of([(0, 3, 1.0), (1, 4, 1.0)]).save(tmp_path, "table")
            np.save(tmp_path / f"table-{part}.npy", array)
            with pytest.raises(BundleError, match=rf"table-{part}\.npy: .*: export it again"):
                SparseRows.load(tmp_path, "table", _ITEMS)
