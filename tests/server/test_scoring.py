"""The parts of a score: sparse tables, weights, and how much each part contributes."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions
from swiftrec.server.catalogue.blend import SIGNALS, Blend, Scoring, ScoringInput, Weights
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.catalogue.contributions import Contribution, contributions
from swiftrec.server.catalogue.memory import EVENTS
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
from swiftrec.server.domain import Filter, Item
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import MANIFEST, Manifest
from swiftrec.server.parts import PARTS
from tests.export import tables
from tests.server.support import small

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
def test_gather_returns_entries_of_rows_in_the_requested_order(
    entries: list[tuple[int, int, float]], requested: list[int]
) -> None:
    positions, weights, sizes = rows_of(entries).gather(np.array(requested, np.int64))
    expected = [sorted((p, np.float32(w)) for r, p, w in entries if r == row) for row in requested]
    assert sizes.tolist() == [len(row) for row in expected]
    assert list(zip(positions.tolist(), weights, strict=True)) == [pair for row in expected for pair in row]


@pytest.mark.parametrize("items", [_ITEMS, 10_000])
@given(entries=_ENTRIES)
def test_sums_do_not_depend_on_the_size_of_the_catalogue(items: int, entries: list[tuple[int, int, float]]) -> None:
    part = of_one(*rows_of(entries).gather(np.arange(_ROWS))[:2])
    (actual,) = summed([part], 1, items)
    dense = np.bincount(part.positions, part.values, items)
    assert isinstance(actual, DenseBoosts) == (8 * len(part.values) >= items)
    assert actual.listed().positions.tolist() == np.flatnonzero(dense).tolist()
    assert actual.listed().values.tolist() == dense[dense != 0].astype(np.float32).tolist()
    scores = np.ones(items, dtype=np.float32)
    actual.add_to(scores)
    assert scores.tolist() == (np.float32(1) + dense.astype(np.float32)).tolist()
    assert actual.at(np.arange(_ITEMS)).tolist() == dense[:_ITEMS].astype(np.float32).tolist()


@pytest.mark.parametrize(("items", "is_dense"), [(SWITCH_OVER - 1, True), (SWITCH_OVER, False)])
def test_no_work_grows_with_a_catalogue_that_has_an_index(items: int, is_dense: bool) -> None:
    random = np.random.default_rng(1)
    positions = random.integers(items, size=30_000)
    weights = random.normal(size=len(positions)).astype(np.float32)
    (actual,) = summed([of_one(positions, weights)], 1, items)
    assert isinstance(actual, DenseBoosts) is is_dense
    expected = np.bincount(positions, weights, items)
    np.testing.assert_array_equal(actual.at(np.arange(items)), expected.astype(np.float32))


@pytest.mark.parametrize("items", [9, 90, SWITCH_OVER])
@given(requests=st.lists(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0, 0.1, 0.3, 1e9, -0.3]))), min_size=1))
def test_sums_of_a_request_are_bitwise_equal_in_any_batch(items: int, requests: list[list[tuple[int, float]]]) -> None:
    parts = [of_one(np.array([p for p, _ in entry], np.int64), np.array([v for _, v in entry])) for entry in requests]
    batch = Entries(
        np.arange(len(parts)).repeat([len(part.values) for part in parts]),
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.values for part in parts]),
    )
    together = summed([batch, batch], len(parts), items)
    for entry, actual in zip(parts, together, strict=True):
        (alone,) = summed([entry, entry], 1, items)
        assert [list(row) for row in actual.listed()] == [list(row) for row in alone.listed()]
    merge = merged(batch, len(parts), items)
    assert not np.isin(0, merge.values)
    assert (np.diff(merge.owners * items + merge.positions) > 0).all()


def test_nothing_is_added_without_boosts() -> None:
    assert NO_BOOSTS.at(np.array([3, 5])).tolist() == [0, 0]
    assert Boosts(np.array([5]), np.array([2], np.float32)).at(np.array([3, 5, 7])).tolist() == [0, 2, 0]


def test_saved_table_is_memory_mapped_and_equal(tmp_path: Path) -> None:
    rows = rows_of([(0, 3, 1.0), (5, 0, 0.5)])
    rows.save(tmp_path, "table")
    actual = SparseRows.load(tmp_path, "table", _ITEMS)
    assert isinstance(actual.positions.base, np.memmap)
    for array, expected in zip(actual.gather(np.arange(_ROWS)), rows.gather(np.arange(_ROWS)), strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("items", [3, 0])
def test_a_table_that_names_items_beyond_the_catalogue_is_refused(tmp_path: Path, items: int) -> None:
    rows_of([(0, 3, 1.0)]).save(tmp_path, "table")
    with pytest.raises(BundleError, match="do not fit"):
        SparseRows.load(tmp_path, "table", items)


def test_a_missing_or_cut_table_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"table-starts\.npy: not an array"):
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


_WEIGHTS = asdict(Weights())


_ROWS_WEIGHTS: list[dict[str, Any]] = [
    {"query": "none", "events": 1, "weights": _WEIGHTS},
    {"query": "none", "events": 5, "weights": _WEIGHTS},
    {"query": "title", "events": 0, "weights": _WEIGHTS},
]


def changed(row: int, **fields: object) -> list[dict[str, Any]]:
    """The rows with other fields in one of them; None takes a field away."""
    rows = deepcopy(_ROWS_WEIGHTS)
    rows[row] = {name: value for name, value in (rows[row] | fields).items() if value is not None}
    return rows


_DAMAGES = [
    (_ROWS_WEIGHTS[1:], "no row is for requests with one event and no query"),
    (_ROWS_WEIGHTS[:2], "no row is for requests with a query and no event"),
    (changed(0, events=2), "no row is for requests with one event and no query"),
    (changed(2, events=1), "no row is for requests with a query and no event"),
    (changed(1, events=1), "two rows are for the same kind of query and number of events"),
    (changed(1, query="words"), "row 1 has the query 'words': it must be one of none, description, title"),
    (changed(1, events=-1), "row 1 has -1 for its number of events"),
    (changed(1, events="5"), "row 1 has '5' for its number of events"),
    (changed(1, events=True), "row 1 has True for its number of events"),
    (changed(1, weights=None), "row 1 lacks its query, events or weights"),
    (changed(1, weights=[1.0]), "row 1 lacks its query, events or weights"),
    (
        changed(1, weights={}),
        "row 1 has missing or unknown weights: events, neighbours, newcomer",
    ),
    (changed(1, weights=_WEIGHTS | {"luck": 1.0}), "row 1 has missing or unknown weights: luck"),
    (changed(1, weights=_WEIGHTS | {"words": float("nan")}), "row 1 has nan for the weight of words"),
    (changed(1, weights=_WEIGHTS | {"words": float("inf")}), "row 1 has inf for the weight of words"),
    (changed(1, weights=_WEIGHTS | {"words": "1"}), "row 1 has '1' for the weight of words"),
]


def test_valid_weights_are_read() -> None:
    assert [asdict(row) for row in Blend.read(_ROWS_WEIGHTS).rows] == [
        _ROWS_WEIGHTS[1],
        _ROWS_WEIGHTS[0],
        _ROWS_WEIGHTS[2],
    ]
    assert Blend.read([]).weights(3, "title") == Weights()


@pytest.mark.parametrize(("rows", "said"), _DAMAGES)
def test_invalid_weights_are_refused(rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as refused:
        Blend.read(rows)
    assert said in str(refused.value)


def test_bundle_with_invalid_weights_is_refused_on_load(tmp_path: Path) -> None:
    path = small.write_bundle(tmp_path / "1") / MANIFEST
    fields = json.loads(path.read_bytes())
    path.write_text(Manifest(**fields | {"blend": _ROWS_WEIGHTS[:2]}).sealed().model_dump_json())
    with pytest.raises(
        BundleError, match=r"manifest\.json: blend: no row is for requests with a query and no event: exp"
    ):
        small.engine(path.parent)


_ITEMS_CONTRIBUTIONS, _RANKER, _SENTENCE = 50, 6, 4


_RANDOM = np.random.default_rng(2)


_TITLES = [f"word{n % 7} name{n}" for n in range(_ITEMS_CONTRIBUTIONS)]


_VECTORS = _RANDOM.normal(size=(_ITEMS_CONTRIBUTIONS, _RANKER)).astype(np.float32)


_SENTENCES = _RANDOM.normal(size=(_ITEMS_CONTRIBUTIONS, _SENTENCE)).astype(np.float32)


_POPULARITY = np.arange(_ITEMS_CONTRIBUTIONS, dtype=np.float32) // 3


_CATALOGUE = Catalogue(
    [Item(str(n), title, title, {}, float(_POPULARITY[n])) for n, title in enumerate(_TITLES)], _VECTORS, _SENTENCES
)


_MEMORY = tables.random_memory(_ITEMS_CONTRIBUTIONS, _RANDOM)


_values = st.lists(st.floats(0, 3), min_size=len(SIGNALS), max_size=len(SIGNALS))


_histories = st.lists(st.integers(0, _ITEMS_CONTRIBUTIONS - 1), max_size=EVENTS + 5)


_queries = st.sampled_from(["", "word3", "name4 word1 nmae7", "unheard of"])


def requested(history: list[int], query: str) -> ScoringInput:
    items = np.array(history, dtype=np.int64)
    return ScoringInput(len(items), items, _SENTENCES[items], query, _SENTENCES[5] if query else None)


def reported(
    scoring: Scoring, known: ScoringInput, user: NDArray[np.float32], positions: Positions
) -> list[Contribution]:
    return contributions(scoring, known, scoring.request_terms(known).at(user), _CATALOGUE, positions)


def scored(weights: Weights) -> Scoring:
    return tables.scoring(_TITLES, _MEMORY, weights)


@settings(deadline=None)
@given(_values, _histories, _queries, st.integers(0, 2**32 - 1))
def test_parts_sum_to_the_score_of_every_item_that_is_returned(
    values: list[float], history: list[int], query: str, seed: int
) -> None:
    scoring, known = scored(Weights(*values)), requested(history, query)
    user = np.random.default_rng(seed).normal(size=_RANKER).astype(np.float32)
    terms = scoring.request_terms(known)
    ranked = _CATALOGUE.search(terms.at(user), _CATALOGUE.resolve_filter(Filter(), history), 10, terms.boosts)
    positions = np.array([int(item.id) for item, _ in ranked])
    actual = contributions(scoring, known, terms.at(user), _CATALOGUE, positions)
    assert [tuple(entry.parts) for entry in actual] == [tuple(PARTS)] * len(ranked)
    np.testing.assert_allclose(
        [sum(entry.parts.values()) for entry in actual], [score for _, score in ranked], atol=1e-4
    )


@settings(deadline=None)
@given(_values, _histories, _queries)
def test_disabled_part_adds_nothing(values: list[float], history: list[int], query: str) -> None:
    user, positions = np.ones(_RANKER, dtype=np.float32), np.arange(_ITEMS_CONTRIBUTIONS)
    for part in PARTS:
        scoring = scored(Weights(*values).without([part]))
        actual = reported(scoring, requested(history, query), user, positions)
        assert all(entry.parts[part] == 0 for entry in actual)
        assert part != "memory" or all(entry.event is None for entry in actual)


@settings(deadline=None)
@given(st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.5, 2.0]), _histories)
def test_explaining_event_is_the_one_that_contributes_most_to_the_memory(
    transitions: float, neighbours: float, history: list[int]
) -> None:
    """Checked where one signal alone counts: there leaving an event out takes away what that event adds."""
    user, positions = np.zeros(_RANKER, dtype=np.float32), np.arange(_ITEMS_CONTRIBUTIONS)
    scoring = scored(Weights(ranker=0, neighbours=neighbours))
    actual = reported(scoring, requested(history, ""), user, positions)
    near = np.zeros((len(history), _ITEMS_CONTRIBUTIONS))
    for n, item in enumerate(history):
        _, columns, values = _MEMORY.near_weights([np.array([item])])
        near[n, columns] = neighbours * values
    for item, entry in enumerate(actual):
        best = near[:, item].max(initial=0.0)
        assert entry.event == (int(near[:, item].argmax()) if best > 0 else None)
    both = reported(scored(Weights(0, transitions=transitions)), requested(history, ""), user, positions)
    assert all((entry.event is None) == (entry.parts["memory"] == 0) for entry in both)
    assert all(entry.event is None or entry.event >= len(history) - EVENTS for entry in both)
