"""The stages of the pipeline: each runs for the whole batch, and errors affect only their request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.catalogue.blend import ScoreTerms, ScoringInput
from swiftrec.server.domain import (
    AttributeValues,
    Filter,
    Item,
    ItemEvent,
    Recommendation,
    Request,
    Strategy,
    TextEvent,
)
from swiftrec.server.errors import ModelFailed
from swiftrec.server.models.networks import ranker_half
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pipeline.recommend import compose, encode
from swiftrec.server.pipeline.request_state import RequestState, TextState
from swiftrec.server.pipeline.stages import Stages, VectorCache
from swiftrec.server.ticket import Ticket
from tests.server.support import small
from tests.server.support.workers import ENCODE, RECOMMEND, Row, SmallEngine, answer_alone


@pytest.fixture
def small_engine(tmp_path: Path) -> SmallEngine:
    engine = SmallEngine(small.write_bundle(tmp_path / "1"))
    engine.encoder.row_s = engine.ranker.row_s = 0.0
    return engine


def encoded(small_engine: SmallEngine) -> list[list[Row]]:
    """The batches that the encoder runs from now on."""
    batches: list[list[Row]] = []
    small_engine.encoder.on_run = lambda rows: batches.append(list(rows))
    return batches


def answers(small_engine: SmallEngine, *requests: Request) -> list[Recommendation]:
    actual = small_engine.engine.recommend(requests)
    assert all(isinstance(answer, Recommendation) for answer in actual), actual
    return [answer for answer in actual if isinstance(answer, Recommendation)]


def test_requests_of_a_batch_pass_each_stage_together(
    small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, users = encoded(small_engine), list[int]()
    stages, whole = small_engine.engine.stages, CostModel(batch_s=1.0, token_s=0.0)  # batches that padding does not cut
    monkeypatch.setattr(stages.encoder, "cost", whole)
    monkeypatch.setattr(stages.ranker, "cost", whole)
    rank = small_engine.ranker.run

    def ranked(feeds: dict[str, np.ndarray]) -> np.ndarray:
        users.append(len(feeds["mask"]))
        return rank(feeds)

    monkeypatch.setattr(small_engine.ranker, "run", ranked)
    answers(
        small_engine, Request(query="abc"), Request(history=(TextEvent("abc"), TextEvent("abd"))), Request(query="abe")
    )
    assert [sorted(batch) for batch in batches] == [sorted(map(small_engine.row, ("abc", "abd", "abe")))]  # "abc" once
    assert users == [3]


def test_ranker_and_clients_get_the_right_half_of_a_vector(
    small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[np.ndarray] = []
    rank = small_engine.ranker.run

    def ranked(feeds: dict[str, np.ndarray]) -> np.ndarray:
        read.append(feeds["vectors"][0])
        return rank(feeds)

    monkeypatch.setattr(small_engine.ranker, "run", ranked)
    answers(small_engine, Request(history=(ItemEvent("i1"), TextEvent("abc")), query="de"))
    both = small_engine.engine.encode(["abc", "de"])
    halves = ranker_half(both, small.RANKER_WIDTH)
    np.testing.assert_array_equal(read[0], [small_engine.engine.catalogue.event_vector(1), *halves])
    message = encoder_pb2.EncodeRequest(texts=["abc", "de"]).SerializeToString()
    reply = answer_alone(small_engine.worker(), ENCODE, message)
    assert isinstance(reply, bytes)
    response = encoder_pb2.EncodeResponse.FromString(reply)
    assert (response.rows, response.dimensions) == halves.shape
    np.testing.assert_array_equal(np.frombuffer(response.vectors, "<f4").reshape(halves.shape), halves)


@pytest.mark.parametrize("default", [True, False])
def test_bundle_decides_whether_to_exclude_the_history_when_a_request_does_not(tmp_path: Path, default: bool) -> None:
    folder = small.write_bundle(tmp_path / "1", exclude_history=default)
    requests = [
        Request(history=(ItemEvent("i1"),), exclude_history=expected, top_k=small.ITEMS_COUNT)
        for expected in (None, True, False)
    ]
    actual = answers(SmallEngine(folder), *requests)
    assert ["i1" in {item.id for item, _ in answer.items} for answer in actual] == [not default, False, True]


def test_request_that_needs_no_model_runs_none(small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_engine.ranker, "run", None)
    batches = encoded(small_engine)
    actual = answers(small_engine, Request(), Request(history=(ItemEvent("unknown"),)))
    assert [answer.strategy for answer in actual] == [Strategy.POPULARITY] * 2
    assert [answer.unknown_item_ids for answer in actual] == [[], ["unknown"]]
    assert batches == []


def test_error_of_the_encoder_fails_only_requests_with_that_text(small_engine: SmallEngine) -> None:
    small_engine.encoder.fails = {small_engine.row("q")[1]}
    requests = [
        Request(query="ab"),
        Request(query="qb"),
        Request(query="cd", history=(TextEvent("ab"), TextEvent("qb"))),
        Request(history=(ItemEvent("i1"),)),
    ]
    actual = small_engine.engine.recommend(requests)
    assert [type(answer) for answer in actual] == [Recommendation, ModelFailed, ModelFailed, Recommendation]


def test_an_error_of_the_ranker_fails_its_request(small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = small_engine.ranker.run

    def ranked(feeds: dict[str, np.ndarray]) -> np.ndarray:
        users = rank(feeds)
        users[feeds["mask"].sum(axis=1) == 2] = np.nan
        return users

    monkeypatch.setattr(small_engine.ranker, "run", ranked)
    actual = small_engine.engine.recommend([Request(history=(ItemEvent("i1"),) * n) for n in (1, 2, 3)])
    assert [type(answer) for answer in actual] == [Recommendation, ModelFailed, Recommendation]


def test_step_times_are_those_of_the_batch(small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Knowing texts as items is part of ranking, the filter part of retrieving."""
    clock, names, catalogue = small_engine.clock, small_engine.engine.stages.names, small_engine.engine.catalogue
    small_engine.encoder.row_s, small_engine.ranker.row_s = 1.0, 2.0
    by_meaning, mask, search = names.by_meaning, catalogue.resolve_filter, catalogue.search_many

    def slow_meaning(text: str, sentence: np.ndarray) -> int | None:
        clock.now += 0.25
        return by_meaning(text, sentence)

    def slow_mask(conditions: Filter, seen: Sequence[int]) -> object:
        clock.now += 0.125
        return mask(conditions, seen)

    def slow_search(*arguments: object) -> object:
        clock.now += 0.5
        return search(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(names, "by_meaning", slow_meaning)
    monkeypatch.setattr(catalogue, "resolve_filter", slow_mask)
    monkeypatch.setattr(catalogue, "search_many", slow_search)
    conditions = Filter(any_of=(AttributeValues("kind", ("k1",)),))
    (answer,) = answers(small_engine, Request(history=(TextEvent("ab"),), conditions=conditions))
    times = answer.timings
    assert (times.encode_ms, times.rank_ms, times.retrieve_ms, times.total_ms) == (1_000, 2_250, 625, 3_875)
    (popular,) = answers(small_engine, Request())
    assert (popular.timings.encode_ms, popular.timings.rank_ms, popular.timings.retrieve_ms) == (0, 0, 125)


def ticket() -> Ticket:
    """A call."""
    return Ticket("", b"", 1e9, lambda _reply: None)


def test_texts_are_not_looked_up_when_the_call_has_ended(
    small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, looked_up = ticket(), list[str]()
    requests = [Request(history=(TextEvent("ab"), TextEvent("cd"), TextEvent("ef"))), Request(query="gh")]
    states = [small_engine.engine.resolve(request) for request in requests]

    def look_up(text: str, _sentence: object) -> None:
        looked_up.append(text)
        call.is_cancelled = True

    monkeypatch.setattr(small_engine.engine.stages.names, "by_meaning", look_up)
    monkeypatch.setattr(small_engine.ranker, "run", None)
    for state in states:
        state.call = call
    small_engine.engine.run(states)
    assert looked_up == ["ab"]
    assert [state.error for state in states] == [None, None]


def test_requests_are_neither_scored_nor_searched_when_the_call_has_ended(
    small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, scored, terms = ticket(), ticket(), list[str](), small_engine.engine.scoring.terms
    other = Request(query="ef")
    states = [small_engine.engine.resolve(request) for request in (Request(query="ab"), Request(query="cd"), other)]
    states[0].call, states[1].call = before, after

    def compose_and_cancel(stages: Stages, state: RequestState) -> None:
        compose(stages, state)
        before.is_cancelled = True

    def score_and_cancel(requested: Sequence[ScoringInput]) -> list[ScoreTerms]:
        scored.extend(known.query for known in requested)
        after.is_cancelled = True
        return terms(requested)

    monkeypatch.setattr("swiftrec.server.pipeline.recommend.compose", compose_and_cancel)
    monkeypatch.setattr(small_engine.engine.scoring, "terms", score_and_cancel)
    small_engine.engine.run(states)
    assert scored == ["cd", "ef"]
    assert [bool(state.items) for state in states] == [False, False, True]
    assert states[2].items == answers(small_engine, other)[0].items


class FirstItem:
    """An engine that answers every request with the first item."""

    def __init__(self, item: Item) -> None:
        self._item = item

    def start(self) -> None:
        """Nothing."""

    def run(self, users: Sequence[TextState]) -> None:
        for user in users:
            if isinstance(user, RequestState):
                user.items = [(self._item, 1.0)]

    def stop(self, timeout_s: float | None = None) -> None:
        """Nothing."""


def test_models_and_search_are_used_only_through_the_engine(
    small_engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_engine.engine, "engine", FirstItem(small_engine.engine.catalogue.items[0]))
    for name in ("encoder", "ranker"):
        monkeypatch.setattr(getattr(small_engine, name), "run", None)
    monkeypatch.setattr(small_engine.engine.catalogue, "search_many", None)
    message = pb.RecommendRequest(query="ab", history=[pb.Event(item_id="i3"), pb.Event(text="Film a0")])
    reply = answer_alone(small_engine.worker(), RECOMMEND, message.SerializeToString())
    assert isinstance(reply, bytes)
    assert [item.item_id for item in pb.RecommendResponse.FromString(reply).items] == ["i0"]


_WORDS = ["a", "b", "cc", "dd", "eee", "q", "qq"]  # the encoder fails on those with a q


_ENTRY_BYTES = 360


class Counts:
    """Where vectors came from."""

    def __init__(self) -> None:
        self.texts = {"hit": 0, "coalesced": 0, "miss": 0}

    def on_lookup(self, source: str, texts: int) -> None:
        self.texts[source] += texts


def vector(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize("cache_bytes", [0, 1_000, 1_000_000])
def test_each_distinct_text_is_encoded_once_in_a_batch(tmp_path: Path, cache_bytes: int) -> None:
    small_engine = SmallEngine(small.write_bundle(tmp_path / "1"), cache_bytes=cache_bytes)
    small_engine.encoder.fails = {small_engine.row("q")[1]}
    ran, counts, stages = list[Row](), Counts(), small_engine.engine.stages
    object.__setattr__(stages, "lookups", counts)
    small_engine.encoder.on_run = ran.extend
    alone = {
        word: small.TinyEncoder().run({"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)))})[0]
        for word in _WORDS
        if (row := small_engine.row(word))
    }

    @settings(deadline=None)
    @given(st.lists(st.lists(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4), min_size=1), max_size=4))
    def holds(batches: list[list[list[str]]]) -> None:
        for batch in batches:
            states = [TextState(small_engine.engine.tokenizer.encode(words)) for words in batch]
            before, had = sum(counts.texts.values()), counts.texts["miss"]
            ran.clear()
            encode(stages, states)
            distinct = {word for words in batch for word in words}
            assert {*ran} <= {small_engine.row(word) for word in distinct}
            assert sum(counts.texts.values()) - before == sum(map(len, batch))
            assert counts.texts["miss"] - had == len({*ran})
            good = [row for row in ran if row[1] not in small_engine.encoder.fails]
            assert len(good) <= 2 * len({*good})  # twice only beside one that failed
            assert stages.cache.size_bytes <= cache_bytes
            for words, state in zip(batch, states, strict=True):
                assert isinstance(state.error, ModelFailed) == any("q" in word for word in words)
                for word, actual in zip(words, state.vectors, strict=True):
                    assert (actual is None) == ("q" in word)
                    assert actual is None or np.array_equal(actual, alone[word])

    holds()


def test_texts_without_a_failure_are_encoded_once(tmp_path: Path) -> None:
    small_engine, ran = SmallEngine(small.write_bundle(tmp_path / "1")), list[Row]()
    small_engine.encoder.on_run = ran.extend
    small_engine.engine.encode(["a", "b", "a", "cc", "b"])
    assert sorted(ran) == sorted(map(small_engine.row, ("a", "b", "cc")))


def test_cached_vector_needs_no_model_and_holds_no_batch(tmp_path: Path) -> None:
    small_engine, ran = SmallEngine(small.write_bundle(tmp_path / "1"), cache_bytes=10_000), list[Row]()
    first = small_engine.engine.encode(["a", "b"])
    small_engine.encoder.on_run = ran.extend
    state, other = small_engine.engine.resolve_texts(["a", "cc"])
    assert (state.tokens, state.was_cached, other.tokens > 0, other.was_cached) == (0, True, True, False)
    assert state.cost_s < other.cost_s
    small_engine.engine.run([state, other])
    assert ran == [small_engine.row("cc")]
    (actual,) = state.vectors
    assert actual is not None
    np.testing.assert_array_equal(actual, first[0])
    assert actual.base is None


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 40)), max_size=60), st.integers(0, 2_000))
def test_cache_evicts_the_least_recently_used_vector(puts: list[tuple[bytes, int]], capacity: int) -> None:
    cache, used = VectorCache(capacity), dict[bytes, int]()  # size of each entry, what was used last at the end
    for key, length in puts:
        if (actual := cache.get(key)) is not None:
            used[key] = used.pop(key)
            assert actual.nbytes + len(key) + _ENTRY_BYTES == used[key]
        else:
            assert key not in used
        cache.put(key, np.zeros(length, dtype=np.float32))
        size = len(key) + 4 * length + _ENTRY_BYTES
        if key not in used and size <= capacity:
            used[key] = size
            while sum(used.values()) > capacity:
                del used[next(iter(used))]
        assert cache.size_bytes == sum(used.values()) <= capacity


def test_disabled_cache_stores_nothing() -> None:
    cache = VectorCache(0)
    cache.put(b"a", vector(1))
    assert (cache.get(b"a"), cache.size_bytes) == (None, 0)


def test_cache_stores_a_copy() -> None:
    """A row would hold its whole batch in memory."""
    cache, batch = VectorCache(10_000), np.arange(20, dtype=np.float32).reshape(10, 2)
    cache.put(b"a", batch[3])
    batch[:] = 0
    actual = cache.get(b"a")
    assert actual is not None
    assert (actual.tolist(), actual.base) == ([6, 7], None)


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


def reported(answer: Recommendation) -> object:
    """Everything but the times."""
    items = [(item.id, score) for item, score in answer.items]
    return items, answer.unknown_item_ids, answer.resolved, answer.strategy, answer.events_used


@pytest.mark.parametrize("parts_off", [(), ("memory", "text", "words", "popularity")])
def test_result_does_not_depend_on_the_batch_request(tmp_path: Path, parts_off: tuple[str, ...]) -> None:
    """To the bit: the models' part of it depends on nothing but the request here, unlike that of real ones."""
    with small.engine(small.write_bundle(tmp_path / "1", same_item=0.9), parts_off) as engine:

        @settings(max_examples=60, deadline=None)
        @given(st.lists(_request, min_size=1, max_size=12))
        def holds(requests: list[Request]) -> None:
            alone = [reported(small.ask(engine, request)[0]) for request in requests]
            assert [reported(answer) for answer in small.ask(engine, *requests)] == alone

        holds()


def test_score_of_a_request_depends_only_on_its_known_events(tmp_path: Path) -> None:
    """Two engines of one bundle, asked in another order, say the same."""
    folder = small.write_bundle(tmp_path / "1")
    first, second = (small.engine(folder).scoring for _ in range(2))
    random, known = np.random.default_rng(0), list[ScoringInput]()
    for n in range(40):
        items = random.integers(small.ITEMS_COUNT, size=n % 12)
        sentences = random.normal(size=(len(items), small.SENTENCE_WIDTH)).astype(np.float32)
        query = "" if n % 3 else f"film genre g{n % 5} misspelld{n}"
        sentence = np.ones(small.SENTENCE_WIDTH, np.float32) if query else None
        known.append(ScoringInput(len(items), items, sentences, query, sentence))
    before = [(entry.items.copy(), entry.sentences.copy()) for entry in known]
    all_terms = [first.request_terms(entry) for entry in known]
    for terms, again in zip(all_terms, reversed(second.terms(known[::-1])), strict=True):
        assert terms.ranker == again.ranker
        np.testing.assert_array_equal(terms.rest, again.rest)
        every = np.arange(small.ITEMS_COUNT)
        np.testing.assert_array_equal(terms.boosts.at(every), again.boosts.at(every))
    for small_engine, (items, sentences) in zip(known, before, strict=True):
        np.testing.assert_array_equal(small_engine.items, items)
        np.testing.assert_array_equal(small_engine.sentences, sentences)


def test_cost_of_a_filter_is_predicted_until_it_is_cached(tmp_path: Path) -> None:
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
