"""Items, filters and exact search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions
from swiftrec.server.catalogue import exact
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.catalogue.exact import CandidateSet
from swiftrec.server.catalogue.filters import AttributeIndex, PostingList
from swiftrec.server.catalogue.items import ITEMS, ItemTable
from swiftrec.server.domain import AttributeValues, Filter, Item
from swiftrec.server.errors import BundleError, InvalidRequest
from tests.server.support.operations import count_array_operations

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
def test_filter_allows_matching_items(
    any_of: tuple[AttributeValues, ...],
    all_of: tuple[AttributeValues, ...],
    none_of: tuple[AttributeValues, ...],
    denied: set[int],
    chosen: set[int] | None,
) -> None:
    only = frozenset(map(str, chosen)) if chosen else frozenset[str]()
    conditions = Filter(allowed=only, any_of=any_of, all_of=all_of, none_of=none_of)
    expected = [n for n, row in enumerate(_ROWS) if holds(row, conditions) and n not in denied and n in (chosen or {n})]
    allowed = _INDEX.allow(conditions, chosen or (), denied)
    assert allowed.positions().tolist() == expected
    assert allowed.count == len(expected)
    held = [n for n, row in enumerate(_ROWS) if holds(row, conditions) and n in (chosen or {n})]
    assert allowed.denied_count == (len(held) - len(expected) if any_of or all_of or none_of or chosen else len(denied))
    assert np.flatnonzero(allowed.contains(np.arange(150))).tolist() == expected


def test_many_denied_items_are_stored_as_a_bitmap() -> None:
    allowed = AttributeIndex([{} for _ in range(2_000)]).allow(Filter(), (), range(1_500))
    assert allowed.bits is not None
    assert allowed.positions().tolist() == list(range(1_500, 2_000))


def test_filter_of_unknown_ids_allows_nothing() -> None:
    catalogue = small(np.eye(3))
    assert catalogue.resolve_filter(Filter(allowed=frozenset({"x"})), ()).count == 0


def test_unknown_values_are_named_once_in_the_order_of_conditions() -> None:
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


def test_index_memory_is_bounded_by_item_positions() -> None:
    rows = [{"own": [str(n)], "same": ["yes"]} for n in range(10_000)]
    lists = [entry for values in AttributeIndex(rows)._lists.values() for entry in values.values()]
    sizes = [entry.positions.nbytes + (0 if entry.bits is None else entry.bits.nbytes) for entry in lists]
    assert sum(sizes) <= 4 * 10_000 + 10_000 // 8 + 8


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sets(st.integers(0, 299), max_size=290))
def test_exact_search_sorts_scores_stably(seed: int, k: int, denied: set[int]) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((20, 8)).astype(np.float32)[random.integers(20, size=300)]  # ties everywhere
    user = random.standard_normal(8).astype(np.float32)
    actual = small(vectors).search(user, AttributeIndex([{}] * 300).allow(Filter(), (), denied), k)
    scores = [float(np.einsum("d,d->", row, user)) for row in vectors]
    expected = sorted((n for n in range(300) if n not in denied), key=lambda n: (-scores[n], n))[:k]
    assert [int(item.id) for item, _ in actual] == expected


def test_equal_vectors_have_equal_scores_in_any_position() -> None:
    random = np.random.default_rng(1)
    row, user = random.standard_normal((2, 128)).astype(np.float32)
    vectors = random.standard_normal((1_003, 128)).astype(np.float32)
    places = np.array([0, 1, 2, 3, 500, 997, 1_002])
    vectors[places] = row
    _, scores = exact.top_k(vectors, user, np.arange(1_003), 1_003)
    assert (scores == exact.top_k(vectors, user, places[:1], 1)[1][0]).sum() == len(places)


def test_popular_items_exclude_denied_ones_and_keep_the_order_of_ties() -> None:
    catalogue = small(np.eye(6), [1, 5, 5, 9, 0, 5])
    actual = catalogue.popular(catalogue.resolve_filter(Filter(denied=frozenset({"3", "1"})), ()), 3)
    assert [item.id for item, _ in actual] == ["2", "5", "0"]
    assert len(catalogue.popular(catalogue.resolve_filter(Filter(), ()), 100)) == 6


def test_item_table_decodes_only_requested_rows() -> None:
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
    with pytest.raises(BundleError, match="not a table of items"):
        Catalogue.load(tmp_path, 0)


_ITEMS = 6_400


_ROWS_FILTERS = [{"many": [f"m{n % 3}", f"half{n % 2}"], "few": [f"f{n % 800}"]} for n in range(_ITEMS)]


MakeFilter = Callable[..., Filter]


_FEW = tuple(f"f{n}" for n in range(800))


def any_of(name: str, *values: str) -> Filter:
    return Filter(any_of=(AttributeValues(name, values),))


def all_of(name: str, *values: str) -> Filter:
    return Filter(all_of=(AttributeValues(name, values),))


def none_of(name: str, *values: str) -> Filter:
    return Filter(none_of=(AttributeValues(name, values),))


def catalogue(popularity: Iterable[float] = ()) -> Catalogue:
    counts = [*popularity] or [1.0] * _ITEMS
    items = [Item(str(n), "", "", row, counts[n]) for n, row in enumerate(_ROWS_FILTERS[: len(counts)])]
    return Catalogue(items, np.zeros((len(items), 2), dtype=np.float32))


def test_filter_is_empty_only_without_conditions() -> None:
    ids = frozenset({"1"})
    full = [Filter(allowed=ids), Filter(denied=ids), *(kind("few", "f1") for kind in (any_of, all_of, none_of))]
    assert Filter().is_empty
    assert not any(conditions.is_empty for conditions in full)
    assert Filter(denied=ids) == Filter(denied=ids) != Filter()


@pytest.mark.parametrize("kind", [any_of, all_of, none_of])
def test_equal_values_cost_as_much_as_one(kind: MakeFilter) -> None:
    def operations(*values: str) -> int:
        films = catalogue()
        return count_array_operations(lambda: films.resolve_filter(kind("many", *values), ()))

    assert operations(*["m1"] * 600) == operations("m1")
    assert kind("many", *["m1"] * 600) == kind("many", "m1")
    assert catalogue().filter_work(kind("many", *["m1"] * 600)) == catalogue().filter_work(kind("many", "m1"))


def test_equal_conditions_cost_as_much_as_one() -> None:
    entry = AttributeValues("many", ("m1", "m2"))
    for conditions, alone in (
        (Filter(any_of=(entry,) * 64), Filter(any_of=(entry,))),
        (Filter(all_of=(entry,) * 64), Filter(all_of=(entry,))),
        (Filter(none_of=(entry,) * 64), Filter(none_of=(entry,))),
    ):
        first, second = catalogue(), catalogue()
        assert first.filter_work(conditions) == second.filter_work(alone)
        expected = count_array_operations(partial(second.resolve_filter, alone, ()))
        assert count_array_operations(partial(first.resolve_filter, conditions, ())) == expected


def test_work_is_bounded_when_no_item_can_match_all_values() -> None:
    films = catalogue()
    assert count_array_operations(lambda: films.resolve_filter(all_of("few", *_FEW), ())) < 20
    assert films.resolve_filter(all_of("few", *_FEW), ()).count == 0


@pytest.mark.parametrize("kind", [any_of, none_of])
def test_values_of_a_condition_are_united_in_a_few_operations(kind: MakeFilter) -> None:
    films = catalogue()
    assert count_array_operations(lambda: films.resolve_filter(kind("few", *_FEW), ())) < 20


def test_conditions_are_cached_and_user_specific_ids_are_not() -> None:
    made, conditions = catalogue(), any_of("many", "m1")
    assert made.filter_work(conditions) > 0
    first = made.resolve_filter(conditions, [1, 4])
    assert made.filter_work(conditions) == 0
    assert count_array_operations(lambda: made.resolve_filter(conditions, ())) < 10
    second, third = made.resolve_filter(conditions, ()), made.resolve_filter(conditions, ())
    assert second.bits is third.bits
    assert (first.count, second.count, first.denied_count) == (second.count - 2, _ITEMS // 3, 2)
    assert [*first.positions()[:2], *second.positions()[:2]] == [7, 10, 1, 4]
    assert second.bits is not None
    with pytest.raises(ValueError, match="read-only"):
        second.bits[0] = 0


def test_filter_cache_evicts_the_oldest_at_its_limit_of_bytes() -> None:
    capacity = 20_000
    index = AttributeIndex(_ROWS_FILTERS, capacity)
    requested = [any_of("few", f"f{n}") for n in range(100)]
    for conditions in requested:
        index.allow(conditions, (), ())
        index.allow(requested[0], (), ())  # used last, always
        assert 0 < index.cached_bytes <= capacity
    is_cached = [not index.work(conditions) for conditions in requested]
    assert is_cached[0]
    assert is_cached[-1]
    assert 2 < sum(is_cached) < 50
    assert is_cached[1:] == sorted(is_cached[1:])
    large = any_of("many", *("x" * 2_000 + str(n) for n in range(10)))
    index.allow(large, (), ())
    assert index.work(large) > 0  # its values alone are larger than the cache
    assert AttributeIndex(_ROWS_FILTERS, 0).cached_bytes == 0


def test_estimated_work_grows_with_the_filter() -> None:
    films = catalogue()
    assert films.filter_work(Filter()) == 0
    requested = [any_of("few", "f1"), any_of("few", *_FEW[:20]), any_of("few", *_FEW)]
    work = [films.filter_work(conditions) for conditions in requested]
    assert work == sorted({*work})
    assert work[0] > _ITEMS / 64  # it reads a bit for each item at least
    assert count_array_operations(lambda: [films.filter_work(conditions) for conditions in requested]) == 0
    several = Filter(any_of=tuple(AttributeValues("many", (f"m{n % 3}", str(n))) for n in range(64)))
    assert films.filter_work(several) > 30 * work[0]


def test_work_grows_with_the_catalogue() -> None:
    small, large = (AttributeIndex([{"many": ["m"]}] * items) for items in (64_000, 640_000))
    for conditions in (any_of("many", "m"), all_of("many", "m"), none_of("many", "m")):
        assert large.work(conditions) - small.work(conditions) >= (640_000 - 64_000) / 64  # a word has 64 bits


def test_estimated_work_counts_ids_every_time() -> None:
    films = catalogue()
    work = [films.filter_work(Filter(allowed=frozenset(map(str, range(n))))) for n in (1, 10, 1_000)]
    films.resolve_filter(Filter(allowed=frozenset({"1"})), ())
    assert work == sorted({*work})
    assert films.filter_work(Filter(allowed=frozenset({"1"}))) == work[0]
    assert films.filter_work(Filter(denied=frozenset({"1"}))) == work[0]


_GOOD_AND_UNKNOWN = AttributeValues("many", ("m1",)), AttributeValues("colour", ("red",))


@pytest.mark.parametrize(
    ("field", "conditions"),
    [
        ("any_of", Filter(any_of=_GOOD_AND_UNKNOWN)),
        ("all_of", Filter(all_of=_GOOD_AND_UNKNOWN)),
        ("none_of", Filter(none_of=_GOOD_AND_UNKNOWN)),
    ],
)
def test_unknown_attribute_is_refused_before_any_work(field: str, conditions: Filter) -> None:
    films = catalogue()
    refused: list[InvalidRequest] = []
    for check in (films.check_filter, lambda requested: films.resolve_filter(requested, ())):
        with pytest.raises(InvalidRequest, match="unknown attribute 'colour'; known: few, many") as caught:
            check(conditions)
        refused.append(caught.value)
    assert [error.field for error in refused] == [f"filter.{field}[1].name"] * 2
    good = Filter(any_of=conditions.any_of[:1], all_of=conditions.all_of[:1], none_of=conditions.none_of[:1])
    assert count_array_operations(lambda: films.check_filter(good)) == 0
    assert films.filter_work(good) > 0  # so it was not resolved


class CountingLists(dict[str, PostingList]):
    """The posting lists of an attribute; counts how often a value is asked for."""

    lookups = 0

    def __contains__(self, value: object) -> bool:
        self.lookups += 1
        return super().__contains__(value)


def test_unknown_values_take_one_lookup_each_and_none_when_cached() -> None:
    index = AttributeIndex(_ROWS_FILTERS)
    index._lists["few"] = lists = CountingLists(index._lists["few"])
    conditions = any_of("few", *_FEW, *(f"unknown{n}" for n in range(50)))
    unknown = index.unknown_values(conditions)
    assert unknown == [f"few=unknown{n}" for n in range(50)]
    assert lists.lookups == 850
    index.allow(conditions, (), ())
    lists.lookups = 0
    assert index.unknown_values(conditions) == unknown
    assert lists.lookups == 0
    assert index.unknown_values(any_of("few", "other")) == ["few=other"]


def test_catalogue_without_a_filter_needs_no_index_of_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    films = catalogue()
    monkeypatch.setattr(films, "_attributes", None)
    for seen, is_list in (([5, 3, 5], True), (range(513), False)):
        allowed = films.resolve_filter(Filter(), seen)
        assert (allowed.bits is None) == is_list
        assert (allowed.count, allowed.denied_count) == (_ITEMS - len({*seen}), len({*seen}))
        assert allowed.positions().tolist() == [n for n in range(_ITEMS) if n not in {*seen}]


def test_threads_share_the_cache() -> None:
    index = AttributeIndex(_ROWS_FILTERS, 30_000)  # which holds a few of these
    requested = [any_of("few", f"f{n}") for n in range(40)]
    uncached = AttributeIndex(_ROWS_FILTERS, 0)
    expected = [uncached.allow(conditions, (), [3, n]).positions().tolist() for n, conditions in enumerate(requested)]

    def resolve(n: int) -> list[int]:
        positions: list[int] = index.allow(requested[n % 40], (), [3, n % 40]).positions().tolist()
        return positions

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(resolve, range(800))] == expected * 20
    assert 0 < index.cached_bytes <= 30_000


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.sets(st.integers(0, 59)), st.integers(1, 70))
def test_popular_items_are_allowed_items_in_stable_order(popularity: list[int], chosen: set[int], k: int) -> None:
    films = catalogue(map(float, popularity))
    for conditions in (Filter(allowed=frozenset(map(str, chosen or {0}))), any_of("many", "m1"), none_of("many", "m1")):
        allowed = films.resolve_filter(conditions, [0])
        expected = sorted(allowed.positions().tolist(), key=lambda n: (-popularity[n], n))[:k]
        assert [(int(item.id), score) for item, score in films.popular(allowed, k)] == [
            (n, popularity[n]) for n in expected
        ]


def test_popular_items_under_a_narrow_filter_read_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real_holds, real_positions = CandidateSet.contains, CandidateSet.positions

    def holds(allowed: CandidateSet, places: Positions) -> NDArray[np.bool_]:
        read.append(len(places))
        return real_holds(allowed, places)

    def positions(allowed: CandidateSet) -> Positions:
        read.append(allowed.items)
        return real_positions(allowed)

    monkeypatch.setattr(CandidateSet, "contains", holds)
    monkeypatch.setattr(CandidateSet, "positions", positions)
    films = catalogue(range(_ITEMS))
    rare = films.resolve_filter(Filter(allowed=frozenset(map(str, range(20)))), ())  # the least popular ones
    assert [item.id for item, _ in films.popular(rare, 10)] == [str(n) for n in range(19, 9, -1)]
    assert sum(read) <= 1.1 * _ITEMS
    read.clear()
    films.popular(films.resolve_filter(Filter(), [5]), 10)
    assert sum(read) < 100  # without a filter the first few are enough
