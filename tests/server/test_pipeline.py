"""The whole pipeline of a small bundle: an answer does not depend on the requests beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftrec.server.catalogue.blend import Known
from swiftrec.server.catalogue.catalogue import AttributeValues, Filter
from swiftrec.server.domain import ItemEvent, Recommendation, Request, TextEvent
from tests.server import small

_TEXTS = ["Film a0 (1950)", "film c2", small.BY_MEANING, "unheard of", "Film", "genre g1 fiml c2"]
_event = st.one_of(
    st.integers(0, small.ITEMS_COUNT + 2).map(lambda n: ItemEvent(f"i{n}")), st.sampled_from(_TEXTS).map(TextEvent)
)
_request = st.builds(
    Request,
    history=st.lists(_event, max_size=20).map(tuple),
    query=st.sampled_from(["", *_TEXTS]),
    top_k=st.sampled_from([1, 5, 10, small.ITEMS_COUNT]),
    exclude_history=st.sampled_from([None, True, False]),
    conditions=st.sampled_from(
        [
            *[Filter()] * 3,
            Filter(any_of=(AttributeValues("kind", ("k1",)),)),
            Filter(denied=frozenset({"i1", "i2"})),
            Filter(allowed=frozenset({"i3", "i4", "i5", "nothing"})),
        ]
    ),
)


def told(answer: Recommendation) -> object:
    """Everything but the times."""
    items = [(item.id, score) for item, score in answer.items]
    return items, answer.unknown_item_ids, answer.resolved, answer.strategy, answer.events_used


@pytest.mark.parametrize("parts_off", [(), ("memory", "text", "words", "popularity")])
def test_answer_is_the_same_alone_and_in_any_list(tmp_path: Path, parts_off: tuple[str, ...]) -> None:
    """To the bit: the models' part of it depends on nothing but the request here, unlike that of real ones."""
    with small.engine(small.write_bundle(tmp_path / "1", same_item=0.9), parts_off) as engine:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(_request, min_size=1, max_size=12))
        def holds(requests: list[Request]) -> None:
            alone = [told(small.ask(engine, request)[0]) for request in requests]
            assert [told(answer) for answer in small.ask(engine, *requests)] == alone

        holds()


def test_score_of_a_request_is_a_function_of_what_is_known(tmp_path: Path) -> None:
    """Two engines of one bundle, asked in another order, say the same."""
    folder = small.write_bundle(tmp_path / "1")
    first, second = (small.engine(folder).scoring for _ in range(2))
    random, known = np.random.default_rng(0), list[Known]()
    for n in range(40):
        items = random.integers(small.ITEMS_COUNT, size=n % 12)
        sentences = random.normal(size=(len(items), small.SENTENCE_WIDTH)).astype(np.float32)
        query = "" if n % 3 else f"film genre g{n % 5} misspelld{n}"
        sentence = np.ones(small.SENTENCE_WIDTH, np.float32) if query else None
        known.append(Known(len(items), items, sentences, query, sentence))
    before = [(one.items.copy(), one.sentences.copy()) for one in known]
    aims = [first.aim(one) for one in known]
    for aim, again in zip(aims, reversed(second.aims(known[::-1])), strict=True):
        assert aim.ranker == again.ranker
        np.testing.assert_array_equal(aim.rest, again.rest)
        every = np.arange(small.ITEMS_COUNT)
        np.testing.assert_array_equal(aim.boosts.at(every), again.boosts.at(every))
    for one, (items, sentences) in zip(known, before, strict=True):
        np.testing.assert_array_equal(one.items, items)
        np.testing.assert_array_equal(one.sentences, sentences)


def test_what_a_filter_costs_is_predicted_until_its_items_are_cached(tmp_path: Path) -> None:
    with small.engine(small.write_bundle(tmp_path / "1")) as engine:
        plain = engine.resolve(Request(query="film"))
        conditions = Filter(all_of=(AttributeValues("kind", ("k0",)),), none_of=(AttributeValues("kind", ("k1",)),))
        filtered = [engine.resolve(Request(query="film", conditions=conditions)) for _ in range(2)]
        assert plain.filter_work == 0
        assert filtered[0].filter_work > 0
        for _ in range(20):  # a catalogue on which this takes a second
            engine.stages.rates.filter.observe(filtered[0].filter_work, 1.0)
        assert engine.resolve(Request(query="film", conditions=conditions)).cost_s > plain.cost_s + 0.5
        engine.run(filtered)
        assert engine.resolve(Request(query="film", conditions=conditions)).filter_work == 0
