"""Users that are ranked together: each gets what a search for them alone finds, to the bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.catalogue.blend import Aim
from server.catalogue.catalogue import AttributeValues, Catalogue, Filter, Item
from server.catalogue.sparse import Boosts
from server.models.ranker import Kind, RankerModel, UserSequence
from server.pipeline.wanted import Finder, Wanted

_ITEMS, _DIMENSIONS = 500, 16
_RANDOM = np.random.default_rng(5)
_VECTORS = np.repeat(_RANDOM.normal(size=(_ITEMS // 2, _DIMENSIONS)).astype(np.float32), 2, axis=0)  # each stands twice
_CATALOGUE = Catalogue([Item(str(n), "", "", {"kind": [str(n % 3)]}, 0.0) for n in range(_ITEMS)], _VECTORS)


class Last:
    """A ranker whose user is the last event."""

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        rows = np.arange(len(feeds["mask"]))
        found: NDArray[np.float32] = feeds["vectors"][rows, feeds["mask"].sum(axis=1) - 1].astype(np.float32)
        return found


def _wanted(top_k: int = 10, conditions: Filter | None = None, seen: tuple[int, ...] = ()) -> Wanted:
    events = list(_RANDOM.normal(size=(int(_RANDOM.integers(1, 4)), _DIMENSIONS)).astype(np.float32))
    user = UserSequence(events, [Kind.ITEM] * len(events))
    boosted = np.sort(_RANDOM.choice(_ITEMS, 40, replace=False))
    boosts = Boosts(boosted, _RANDOM.normal(size=len(boosted)).astype(np.float32))
    aim = Aim(0.5, np.empty(0, np.float32), boosts)
    return Wanted(user, aim, _CATALOGUE.mask(conditions or Filter(), seen), top_k)


def _finder() -> Finder:
    ticks = iter(range(1_000))
    return Finder(RankerModel(Last(), _DIMENSIONS), _CATALOGUE, clock=lambda: float(next(ticks)))


def test_users_of_a_batch_get_what_each_would_get_alone() -> None:
    jobs = [_wanted(top_k, seen=seen) for top_k, seen in ((1, ()), (10, (4, 5)), (7, (0,)), (100, ()))]
    for job, found in zip(jobs, _finder().run(jobs), strict=True):
        assert (found.user == np.float32(0.5) * job.user.vectors[-1]).all()
        assert found.items == _CATALOGUE.search(found.user, job.allowed, job.top_k, job.aim.boosts)
        assert found.search_s == 1.0


def test_who_is_no_better_off_is_left_to_the_end() -> None:
    narrow = Filter(any_of=(AttributeValues("kind", ("1",)),))
    jobs = [*(_wanted() for _ in range(4)), _wanted(conditions=narrow), _wanted(0), _wanted(400)]
    found = _finder().run(jobs)
    assert [one.items is None for one in found] == [False] * 4 + [True] * 3
    assert [one.search_s for one in found] == [1.0] * 4 + [0.0] * 3
    few = [_wanted() for _ in range(3)]
    assert all(one.items is None for one in _finder().run(few))
