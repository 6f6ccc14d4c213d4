"""What each part adds to a score, and which event the memory's part is owed to."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.catalogue.blend import SIGNALS, Known, Scoring, Weights
from swiftrec.server.catalogue.catalogue import Catalogue, Filter, Item
from swiftrec.server.catalogue.contributions import Contribution, contributions
from swiftrec.server.catalogue.sparse import EVENTS, Positions
from swiftrec.server.parts import PARTS
from tests.export import tables

_ITEMS, _RANKER, _SENTENCE = 50, 6, 4
_RANDOM = np.random.default_rng(2)
_TITLES = [f"word{n % 7} name{n}" for n in range(_ITEMS)]
_VECTORS = _RANDOM.normal(size=(_ITEMS, _RANKER)).astype(np.float32)
_SENTENCES = _RANDOM.normal(size=(_ITEMS, _SENTENCE)).astype(np.float32)
_POPULARITY = np.arange(_ITEMS, dtype=np.float32) // 3
_CATALOGUE = Catalogue(
    [Item(str(n), title, title, {}, float(_POPULARITY[n])) for n, title in enumerate(_TITLES)], _VECTORS, _SENTENCES
)
_MEMORY = tables.random_memory(_ITEMS, _RANDOM)

_values = st.lists(st.floats(0, 3), min_size=len(SIGNALS), max_size=len(SIGNALS))
_histories = st.lists(st.integers(0, _ITEMS - 1), max_size=EVENTS + 5)
_queries = st.sampled_from(["", "word3", "name4 word1 nmae7", "unheard of"])


def asked(history: list[int], query: str) -> Known:
    items = np.array(history, dtype=np.int64)
    return Known(len(items), items, _SENTENCES[items], query, _SENTENCES[5] if query else None)


def told(scoring: Scoring, known: Known, user: NDArray[np.float32], positions: Positions) -> list[Contribution]:
    return contributions(scoring, known, scoring.aim(known).at(user), _CATALOGUE, positions)


def scored(weights: Weights) -> Scoring:
    return tables.scoring(_TITLES, _MEMORY, weights)


@settings(deadline=None)
@given(_values, _histories, _queries, st.integers(0, 2**32 - 1))
def test_parts_sum_to_the_score_of_every_item_that_is_returned(
    values: list[float], history: list[int], query: str, seed: int
) -> None:
    scoring, known = scored(Weights(*values)), asked(history, query)
    user = np.random.default_rng(seed).normal(size=_RANKER).astype(np.float32)
    aim = scoring.aim(known)
    ranked = _CATALOGUE.search(aim.at(user), _CATALOGUE.mask(Filter(), history), 10, aim.boosts)
    positions = np.array([int(item.id) for item, _ in ranked])
    found = contributions(scoring, known, aim.at(user), _CATALOGUE, positions)
    assert [tuple(one.parts) for one in found] == [tuple(PARTS)] * len(ranked)
    np.testing.assert_allclose([sum(one.parts.values()) for one in found], [score for _, score in ranked], atol=1e-4)


@settings(deadline=None)
@given(_values, _histories, _queries)
def test_a_part_that_is_switched_off_adds_nothing(values: list[float], history: list[int], query: str) -> None:
    user, positions = np.ones(_RANKER, dtype=np.float32), np.arange(_ITEMS)
    for part in PARTS:
        scoring = scored(Weights(*values).without([part]))
        found = told(scoring, asked(history, query), user, positions)
        assert all(one.parts[part] == 0 for one in found)
        assert part != "memory" or all(one.event is None for one in found)


@settings(deadline=None)
@given(st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.0, 0.5, 2.0]), _histories)
def test_the_named_event_is_the_one_without_which_the_memory_adds_least(
    transitions: float, neighbours: float, history: list[int]
) -> None:
    """Checked where one signal alone counts: there leaving an event out takes away what that event adds."""
    user, positions = np.zeros(_RANKER, dtype=np.float32), np.arange(_ITEMS)
    scoring = scored(Weights(ranker=0, neighbours=neighbours))
    found = told(scoring, asked(history, ""), user, positions)
    near = np.zeros((len(history), _ITEMS))
    for n, item in enumerate(history):
        _, columns, values = _MEMORY.near_weights([np.array([item])])
        near[n, columns] = neighbours * values
    for item, one in enumerate(found):
        best = near[:, item].max(initial=0.0)
        assert one.event == (int(near[:, item].argmax()) if best > 0 else None)
    both = told(scored(Weights(0, transitions=transitions)), asked(history, ""), user, positions)
    assert all((one.event is None) == (one.parts["memory"] == 0) for one in both)
    assert all(one.event is None or one.event >= len(history) - EVENTS for one in both)
