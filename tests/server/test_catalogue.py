"""Items, filters and exact search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.catalogue import exact
from swiftrec.server.catalogue.catalogue import AttributeValues, Catalogue, Filter, Item
from swiftrec.server.catalogue.filters import AttributeIndex
from swiftrec.server.catalogue.items import ITEMS, ItemTable
from swiftrec.server.errors import BundleError, InvalidRequest

_COLOURS = ("red", "green", "blue")
_ROWS = [{"colour": [_COLOURS[n % 3]], "size": ["s", "m"][: n % 3]} for n in range(150)]
_INDEX = AttributeIndex(_ROWS, 8_000)  # whose cache holds some of the filters below
_VALUES = st.lists(st.sampled_from([*_COLOURS, "none"]), min_size=1, max_size=3).map(tuple)
_CONDITION = st.builds(AttributeValues, st.just("colour"), _VALUES) | st.builds(
    AttributeValues, st.just("size"), st.lists(st.sampled_from(["s", "m", "l"]), min_size=1, max_size=2).map(tuple)
)
_CONDITIONS = st.lists(_CONDITION, max_size=2).map(tuple)


def line(name: str, **more: object) -> bytes:
    row = {"id": name, "title": name, "text": name, "attributes": {}, "popularity": 1} | more
    return json.dumps(row, ensure_ascii=False).encode()


def small(vectors: np.ndarray, popularity: list[float] | None = None) -> Catalogue:
    counts = popularity or [1.0] * len(vectors)
    items = [Item(str(n), "", "", {}, count) for n, count in enumerate(counts)]
    return Catalogue(items, vectors.astype(np.float32))


def holds(row: dict[str, list[str]], conditions: Filter) -> bool:
    """The meaning of a filter, item by item."""
    has = {name: {*values} for name, values in row.items()}
    return (
        all(has.get(c.name, set()) & {*c.values} for c in conditions.any_of)
        and all(has.get(c.name, set()) >= {*c.values} for c in conditions.all_of)
        and not any(has.get(c.name, set()) & {*c.values} for c in conditions.none_of)
    )


@given(_CONDITIONS, _CONDITIONS, _CONDITIONS, st.sets(st.integers(0, 149)), st.none() | st.sets(st.integers(0, 149)))
def test_filter_allows_what_it_means(
    any_of: tuple[AttributeValues, ...],
    all_of: tuple[AttributeValues, ...],
    none_of: tuple[AttributeValues, ...],
    denied: set[int],
    chosen: set[int] | None,
) -> None:
    only = frozenset(map(str, chosen)) if chosen else frozenset[str]()
    conditions = Filter(allowed=only, any_of=any_of, all_of=all_of, none_of=none_of)
    wanted = [n for n, row in enumerate(_ROWS) if holds(row, conditions) and n not in denied and n in (chosen or {n})]
    allowed = _INDEX.allow(conditions, chosen or (), denied)
    assert allowed.positions().tolist() == wanted
    assert allowed.count == len(wanted)
    held = [n for n, row in enumerate(_ROWS) if holds(row, conditions) and n in (chosen or {n})]
    assert allowed.missing == (len(held) - len(wanted) if any_of or all_of or none_of or chosen else len(denied))
    assert np.flatnonzero(allowed.holds(np.arange(150))).tolist() == wanted


def test_many_denied_items_become_bits() -> None:
    allowed = AttributeIndex([{} for _ in range(2_000)]).allow(Filter(), (), range(1_500))
    assert allowed.bits is not None
    assert allowed.positions().tolist() == list(range(1_500, 2_000))


def test_unknown_ids_alone_allow_nothing() -> None:
    catalogue = small(np.eye(3))
    assert catalogue.mask(Filter(allowed=frozenset({"x"})), ()).count == 0


def test_values_that_no_item_has_are_named_once_in_the_order_of_the_conditions() -> None:
    items = [Item(str(n), "", "", row, 1.0) for n, row in enumerate(_ROWS)]
    catalogue = Catalogue(items, np.zeros((len(items), 2), dtype=np.float32))
    conditions = Filter(
        allowed=frozenset({"3", "x", "a"}),
        denied=frozenset({"unknown, and harmless"}),
        any_of=(AttributeValues("colour", ("red", "rde")), AttributeValues("colour", ("rde",))),
        all_of=(AttributeValues("size", ("xl",)),),
        none_of=(AttributeValues("colour", ("geen", "green")),),
    )
    named = ["colour=rde", "size=xl", "colour=geen", "allowed_item_ids=a", "allowed_item_ids=x"]
    assert catalogue.unknown_values(conditions) == named
    assert catalogue.unknown_values(Filter()) == []


def test_unknown_attribute_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="unknown attribute 'weight'"):
        AttributeIndex(_ROWS).allow(Filter(none_of=(AttributeValues("weight", ("1",)),)), (), ())


def test_values_take_no_more_than_their_positions() -> None:
    rows = [{"own": [str(n)], "same": ["yes"]} for n in range(10_000)]
    lists = [one for values in AttributeIndex(rows)._lists.values() for one in values.values()]
    sizes = [one.positions.nbytes + (0 if one.bits is None else one.bits.nbytes) for one in lists]
    assert sum(sizes) <= 4 * 10_000 + 10_000 // 8 + 8


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sets(st.integers(0, 299), max_size=290))
def test_exact_search_is_the_stable_order_of_row_scores(seed: int, k: int, denied: set[int]) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((20, 8)).astype(np.float32)[random.integers(20, size=300)]  # ties everywhere
    user = random.standard_normal(8).astype(np.float32)
    found = small(vectors).search(user, AttributeIndex([{}] * 300).allow(Filter(), (), denied), k)
    scores = [float(np.einsum("d,d->", row, user)) for row in vectors]
    wanted = sorted((n for n in range(300) if n not in denied), key=lambda n: (-scores[n], n))[:k]
    assert [int(item.id) for item, _ in found] == wanted


def test_equal_vectors_have_equal_scores_wherever_they_stand() -> None:
    random = np.random.default_rng(1)
    row, user = random.standard_normal((2, 128)).astype(np.float32)
    vectors = random.standard_normal((1_003, 128)).astype(np.float32)
    places = np.array([0, 1, 2, 3, 500, 997, 1_002])
    vectors[places] = row
    _, scores = exact.rank(vectors, user, np.arange(1_003), 1_003)
    assert (scores == exact.rank(vectors, user, places[:1], 1)[1][0]).sum() == len(places)


def test_popular_skips_what_is_denied_and_keeps_the_order_of_ties() -> None:
    catalogue = small(np.eye(6), [1, 5, 5, 9, 0, 5])
    found = catalogue.popular(catalogue.mask(Filter(denied=frozenset({"3", "1"})), ()), 3)
    assert [item.id for item, _ in found] == ["2", "5", "0"]
    assert len(catalogue.popular(catalogue.mask(Filter(), ()), 100)) == 6


def test_table_decodes_what_is_asked_for() -> None:
    table = ItemTable(line("a", title="two\u2028lines\x85") + b"\n" + line("b") + b"\n" + line("c"))
    assert [item.id for item in table] == ["a", "b", "c"]
    assert (table[0].title, table[-1].id, len(table)) == ("two\u2028lines\x85", "c", 3)
    assert [item.id for item in table[1:]] == ["b", "c"]
    with pytest.raises(IndexError):
        table[3]


@pytest.mark.parametrize(
    "bad", [b"{", b"[]", b'{"id": "a"}', line("a", more=1), line("a", attributes=3), b"\xff", b"3"]
)
def test_bundle_with_a_bad_line_is_refused(tmp_path: Path, bad: bytes) -> None:
    (tmp_path / ITEMS).write_bytes(line("a") + b"\n" + bad + b"\n")
    np.save(tmp_path / "vectors.npy", np.zeros((2, 4), dtype=np.float32))
    with pytest.raises(BundleError, match="no table of items"):
        Catalogue.load(tmp_path, 0)
