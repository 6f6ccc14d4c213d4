"""What a filter costs: equal values once, conditions cached in a bounded memory, and the work known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.catalogue.catalogue import AttributeValues, Catalogue, Filter, Item
from swiftrec.server.catalogue.exact import Allowed
from swiftrec.server.catalogue.filters import AttributeIndex, PostingList
from swiftrec.server.catalogue.sparse import Positions
from swiftrec.server.errors import InvalidRequest
from tests.server.operations import count_array_operations

_ITEMS = 6_400
_ROWS = [{"many": [f"m{n % 3}", f"half{n % 2}"], "few": [f"f{n % 800}"]} for n in range(_ITEMS)]
Kind = Callable[..., Filter]
_FEW = tuple(f"f{n}" for n in range(800))


def any_of(name: str, *values: str) -> Filter:
    return Filter(any_of=(AttributeValues(name, values),))


def all_of(name: str, *values: str) -> Filter:
    return Filter(all_of=(AttributeValues(name, values),))


def none_of(name: str, *values: str) -> Filter:
    return Filter(none_of=(AttributeValues(name, values),))


def catalogue(popularity: Iterable[float] = ()) -> Catalogue:
    counts = [*popularity] or [1.0] * _ITEMS
    items = [Item(str(n), "", "", row, counts[n]) for n, row in enumerate(_ROWS[: len(counts)])]
    return Catalogue(items, np.zeros((len(items), 2), dtype=np.float32))


def test_filter_is_empty_without_any_condition_only() -> None:
    ids = frozenset({"1"})
    full = [Filter(allowed=ids), Filter(denied=ids), *(kind("few", "f1") for kind in (any_of, all_of, none_of))]
    assert Filter().is_empty
    assert not any(conditions.is_empty for conditions in full)
    assert Filter(denied=ids) == Filter(denied=ids) != Filter()


@pytest.mark.parametrize("kind", [any_of, all_of, none_of])
def test_equal_values_cost_as_much_as_one(kind: Kind) -> None:
    def operations(*values: str) -> int:
        made = catalogue()
        return count_array_operations(lambda: made.mask(kind("many", *values), ()))

    assert operations(*["m1"] * 600) == operations("m1")
    assert kind("many", *["m1"] * 600) == kind("many", "m1")
    assert catalogue().filter_work(kind("many", *["m1"] * 600)) == catalogue().filter_work(kind("many", "m1"))


def test_equal_conditions_cost_as_much_as_one() -> None:
    one = AttributeValues("many", ("m1", "m2"))
    for conditions, alone in (
        (Filter(any_of=(one,) * 64), Filter(any_of=(one,))),
        (Filter(all_of=(one,) * 64), Filter(all_of=(one,))),
        (Filter(none_of=(one,) * 64), Filter(none_of=(one,))),
    ):
        first, second = catalogue(), catalogue()
        assert first.filter_work(conditions) == second.filter_work(alone)
        wanted = count_array_operations(partial(second.mask, alone, ()))
        assert count_array_operations(partial(first.mask, conditions, ())) == wanted


def test_work_does_not_grow_with_values_that_no_item_can_have_together() -> None:
    made = catalogue()
    assert count_array_operations(lambda: made.mask(all_of("few", *_FEW), ())) < 20
    assert made.mask(all_of("few", *_FEW), ()).count == 0


@pytest.mark.parametrize("kind", [any_of, none_of])
def test_values_of_a_condition_are_joined_in_a_few_operations(kind: Kind) -> None:
    made = catalogue()
    assert count_array_operations(lambda: made.mask(kind("few", *_FEW), ())) < 20


def test_conditions_are_resolved_once_and_what_is_the_users_own_is_not_kept() -> None:
    made, conditions = catalogue(), any_of("many", "m1")
    assert made.filter_work(conditions) > 0
    first = made.mask(conditions, [1, 4])
    assert made.filter_work(conditions) == 0
    assert count_array_operations(lambda: made.mask(conditions, ())) < 10
    second, third = made.mask(conditions, ()), made.mask(conditions, ())
    assert second.bits is third.bits
    assert (first.count, second.count, first.missing) == (second.count - 2, _ITEMS // 3, 2)
    assert [*first.positions()[:2], *second.positions()[:2]] == [7, 10, 1, 4]
    assert second.bits is not None
    with pytest.raises(ValueError, match="read-only"):
        second.bits[0] = 0


def test_cached_filters_are_bounded_in_bytes_and_the_oldest_makes_room() -> None:
    capacity = 20_000
    index = AttributeIndex(_ROWS, capacity)
    asked = [any_of("few", f"f{n}") for n in range(100)]
    for conditions in asked:
        index.allow(conditions, (), ())
        index.allow(asked[0], (), ())  # used last, always
        assert 0 < index.cached_bytes <= capacity
    kept = [not index.work(conditions) for conditions in asked]
    assert kept[0]
    assert kept[-1]
    assert 2 < sum(kept) < 50
    assert kept[1:] == sorted(kept[1:])
    large = any_of("many", *("x" * 2_000 + str(n) for n in range(10)))
    index.allow(large, (), ())
    assert index.work(large) > 0  # its values alone are larger than the cache
    assert AttributeIndex(_ROWS, 0).cached_bytes == 0


def test_work_is_known_before_and_grows_with_what_is_to_be_done() -> None:
    made = catalogue()
    assert made.filter_work(Filter()) == 0
    asked = [any_of("few", "f1"), any_of("few", *_FEW[:20]), any_of("few", *_FEW)]
    work = [made.filter_work(conditions) for conditions in asked]
    assert work == sorted({*work})
    assert work[0] > _ITEMS / 64  # it reads a bit for each item at least
    assert count_array_operations(lambda: [made.filter_work(conditions) for conditions in asked]) == 0
    several = Filter(any_of=tuple(AttributeValues("many", (f"m{n % 3}", str(n))) for n in range(64)))
    assert made.filter_work(several) > 30 * work[0]


def test_work_grows_with_the_catalogue() -> None:
    small, large = (AttributeIndex([{"many": ["m"]}] * items) for items in (64_000, 640_000))
    for conditions in (any_of("many", "m"), all_of("many", "m"), none_of("many", "m")):
        assert large.work(conditions) - small.work(conditions) >= (640_000 - 64_000) / 64  # a word has 64 bits


def test_work_counts_ids_each_time() -> None:
    made = catalogue()
    work = [made.filter_work(Filter(allowed=frozenset(map(str, range(n))))) for n in (1, 10, 1_000)]
    made.mask(Filter(allowed=frozenset({"1"})), ())
    assert work == sorted({*work})
    assert made.filter_work(Filter(allowed=frozenset({"1"}))) == work[0]
    assert made.filter_work(Filter(denied=frozenset({"1"}))) == work[0]


_GOOD_AND_UNKNOWN = AttributeValues("many", ("m1",)), AttributeValues("colour", ("red",))


@pytest.mark.parametrize(
    ("field", "conditions"),
    [
        ("any_of", Filter(any_of=_GOOD_AND_UNKNOWN)),
        ("all_of", Filter(all_of=_GOOD_AND_UNKNOWN)),
        ("none_of", Filter(none_of=_GOOD_AND_UNKNOWN)),
    ],
)
def test_unknown_attribute_is_refused_without_any_work(field: str, conditions: Filter) -> None:
    made = catalogue()
    refused: list[InvalidRequest] = []
    for check in (made.check_filter, lambda asked: made.mask(asked, ())):
        with pytest.raises(InvalidRequest, match="unknown attribute 'colour'; known: few, many") as caught:
            check(conditions)
        refused.append(caught.value)
    assert [error.field for error in refused] == [f"filter.{field}[1].name"] * 2
    good = Filter(any_of=conditions.any_of[:1], all_of=conditions.all_of[:1], none_of=conditions.none_of[:1])
    assert count_array_operations(lambda: made.check_filter(good)) == 0
    assert made.filter_work(good) > 0  # so it was not resolved


class CountingLists(dict[str, PostingList]):
    """The posting lists of an attribute; counts how often a value is asked for."""

    lookups = 0

    def __contains__(self, value: object) -> bool:
        self.lookups += 1
        return super().__contains__(value)


def test_unknown_values_take_one_lookup_each_and_none_where_the_bits_are_cached() -> None:
    index = AttributeIndex(_ROWS)
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
    made = catalogue()
    monkeypatch.setattr(made, "_attributes", None)
    for seen, is_list in (([5, 3, 5], True), (range(513), False)):
        allowed = made.mask(Filter(), seen)
        assert (allowed.bits is None) == is_list
        assert (allowed.count, allowed.missing) == (_ITEMS - len({*seen}), len({*seen}))
        assert allowed.positions().tolist() == [n for n in range(_ITEMS) if n not in {*seen}]


def test_threads_share_the_cache() -> None:
    index = AttributeIndex(_ROWS, 30_000)  # which holds a few of these
    asked = [any_of("few", f"f{n}") for n in range(40)]
    uncached = AttributeIndex(_ROWS, 0)
    wanted = [uncached.allow(conditions, (), [3, n]).positions().tolist() for n, conditions in enumerate(asked)]

    def resolve(n: int) -> list[int]:
        positions: list[int] = index.allow(asked[n % 40], (), [3, n % 40]).positions().tolist()
        return positions

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(resolve, range(800))] == wanted * 20
    assert 0 < index.cached_bytes <= 30_000


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.sets(st.integers(0, 59)), st.integers(1, 70))
def test_popular_items_are_the_stable_order_of_all_that_are_allowed(
    popularity: list[int], chosen: set[int], k: int
) -> None:
    made = catalogue(map(float, popularity))
    for conditions in (Filter(allowed=frozenset(map(str, chosen or {0}))), any_of("many", "m1"), none_of("many", "m1")):
        allowed = made.mask(conditions, [0])
        wanted = sorted(allowed.positions().tolist(), key=lambda n: (-popularity[n], n))[:k]
        assert [(int(item.id), score) for item, score in made.popular(allowed, k)] == [
            (n, popularity[n]) for n in wanted
        ]


def test_popular_items_under_a_narrow_filter_read_each_item_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real_holds, real_positions = Allowed.holds, Allowed.positions

    def holds(allowed: Allowed, places: Positions) -> NDArray[np.bool_]:
        read.append(len(places))
        return real_holds(allowed, places)

    def positions(allowed: Allowed) -> Positions:
        read.append(allowed.items)
        return real_positions(allowed)

    monkeypatch.setattr(Allowed, "holds", holds)
    monkeypatch.setattr(Allowed, "positions", positions)
    made = catalogue(range(_ITEMS))
    rare = made.mask(Filter(allowed=frozenset(map(str, range(20)))), ())  # the least popular ones
    assert [item.id for item, _ in made.popular(rare, 10)] == [str(n) for n in range(19, 9, -1)]
    assert sum(read) <= 1.1 * _ITEMS
    read.clear()
    made.popular(made.mask(Filter(), [5]), 10)
    assert sum(read) < 100  # without a filter the first few are enough
