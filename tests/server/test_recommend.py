"""The stages of a batch: every stage takes the whole batch, and what happens to a request stays with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.catalogue.blend import Aim, Known
from swiftrec.server.catalogue.catalogue import AttributeValues, Filter, Item
from swiftrec.server.domain import ItemEvent, Recommendation, Request, Strategy, TextEvent
from swiftrec.server.errors import ModelFailed
from swiftrec.server.models.networks import ranker_half
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pipeline.recommend import compose
from swiftrec.server.pipeline.request_state import RequestState, TextState
from swiftrec.server.pipeline.stages import Stages
from swiftrec.server.ticket import Ticket
from tests.server import small
from tests.server.workers import ENCODE, RECOMMEND, Row, SmallEngine, answer_alone


@pytest.fixture
def one(tmp_path: Path) -> SmallEngine:
    made = SmallEngine(small.write_bundle(tmp_path / "1"))
    made.encoder.row_s = made.ranker.row_s = 0.0
    return made


def encoded(one: SmallEngine) -> list[list[Row]]:
    """The batches that the encoder runs from now on."""
    batches: list[list[Row]] = []
    one.encoder.on_run = lambda rows: batches.append(list(rows))
    return batches


def answers(one: SmallEngine, *requests: Request) -> list[Recommendation]:
    found = one.engine.recommend(requests)
    assert all(isinstance(answer, Recommendation) for answer in found), found
    return [answer for answer in found if isinstance(answer, Recommendation)]


def test_requests_take_each_stage_together(one: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, users = encoded(one), list[int]()
    stages, whole = one.engine.stages, CostModel(batch_s=1.0, token_s=0.0)  # batches that padding does not cut
    monkeypatch.setattr(stages.encoder, "cost", whole)
    monkeypatch.setattr(stages.ranker, "cost", whole)
    rank = one.ranker.run

    def ranked(feeds: dict[str, np.ndarray]) -> np.ndarray:
        users.append(len(feeds["mask"]))
        return rank(feeds)

    monkeypatch.setattr(one.ranker, "run", ranked)
    answers(one, Request(query="abc"), Request(history=(TextEvent("abc"), TextEvent("abd"))), Request(query="abe"))
    assert [sorted(batch) for batch in batches] == [sorted(map(one.row, ("abc", "abd", "abe")))]  # "abc" once
    assert users == [3]


def test_ranker_and_clients_get_the_half_that_is_for_them(one: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[np.ndarray] = []
    rank = one.ranker.run

    def ranked(feeds: dict[str, np.ndarray]) -> np.ndarray:
        read.append(feeds["vectors"][0])
        return rank(feeds)

    monkeypatch.setattr(one.ranker, "run", ranked)
    answers(one, Request(history=(ItemEvent("i1"), TextEvent("abc")), query="de"))
    both = one.engine.encode(["abc", "de"])
    halves = ranker_half(both, small.RANKER_WIDTH)
    np.testing.assert_array_equal(read[0], [one.engine.catalogue.event_vector(1), *halves])
    message = encoder_pb2.EncodeRequest(texts=["abc", "de"]).SerializeToString()
    reply = answer_alone(one.worker(), ENCODE, message)
    assert isinstance(reply, bytes)
    response = encoder_pb2.EncodeResponse.FromString(reply)
    assert (response.rows, response.dimensions) == halves.shape
    np.testing.assert_array_equal(np.frombuffer(response.vectors, "<f4").reshape(halves.shape), halves)


@pytest.mark.parametrize("default", [True, False])
def test_bundle_decides_on_the_history_where_a_request_does_not(tmp_path: Path, default: bool) -> None:
    folder = small.write_bundle(tmp_path / "1", exclude_history=default)
    requests = [
        Request(history=(ItemEvent("i1"),), exclude_history=wanted, top_k=small.ITEMS_COUNT)
        for wanted in (None, True, False)
    ]
    found = answers(SmallEngine(folder), *requests)
    assert ["i1" in {item.id for item, _ in answer.items} for answer in found] == [not default, False, True]


def test_what_needs_no_model_runs_none(one: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one.ranker, "run", None)
    batches = encoded(one)
    found = answers(one, Request(), Request(history=(ItemEvent("unknown"),)))
    assert [answer.strategy for answer in found] == [Strategy.POPULARITY] * 2
    assert [answer.unknown_item_ids for answer in found] == [[], ["unknown"]]
    assert batches == []


def test_an_error_of_a_model_is_told_to_every_request_of_its_text_and_to_no_other(one: SmallEngine) -> None:
    one.encoder.fails = {one.row("q")[1]}
    requests = [
        Request(query="ab"),
        Request(query="qb"),
        Request(query="cd", history=(TextEvent("ab"), TextEvent("qb"))),
        Request(history=(ItemEvent("i1"),)),
    ]
    found = one.engine.recommend(requests)
    assert [type(answer) for answer in found] == [Recommendation, ModelFailed, ModelFailed, Recommendation]


def test_an_error_of_the_ranker_is_told_to_its_request(one: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    rank = one.ranker.run

    def ranked(feeds: dict[str, np.ndarray]) -> np.ndarray:
        users = rank(feeds)
        users[feeds["mask"].sum(axis=1) == 2] = np.nan
        return users

    monkeypatch.setattr(one.ranker, "run", ranked)
    found = one.engine.recommend([Request(history=(ItemEvent("i1"),) * n) for n in (1, 2, 3)])
    assert [type(answer) for answer in found] == [Recommendation, ModelFailed, Recommendation]


def test_times_are_those_of_the_stages_of_the_batch(one: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Knowing texts as items is part of ranking, the filter part of retrieving."""
    clock, names, catalogue = one.clock, one.engine.stages.names, one.engine.catalogue
    one.encoder.row_s, one.ranker.row_s = 1.0, 2.0
    by_meaning, mask, search = names.by_meaning, catalogue.mask, catalogue.search_many

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
    monkeypatch.setattr(catalogue, "mask", slow_mask)
    monkeypatch.setattr(catalogue, "search_many", slow_search)
    conditions = Filter(any_of=(AttributeValues("kind", ("k1",)),))
    (answer,) = answers(one, Request(history=(TextEvent("ab"),), conditions=conditions))
    times = answer.timings
    assert (times.encode_ms, times.rank_ms, times.retrieve_ms, times.total_ms) == (1_000, 2_250, 625, 3_875)
    (popular,) = answers(one, Request())
    assert (popular.timings.encode_ms, popular.timings.rank_ms, popular.timings.retrieve_ms) == (0, 0, 125)


def ticket() -> Ticket:
    """A call."""
    return Ticket("", b"", 1e9, lambda _reply: None)


def test_texts_are_not_looked_up_any_more_once_the_call_is_over(
    one: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, looked_up = ticket(), list[str]()
    requests = [Request(history=(TextEvent("ab"), TextEvent("cd"), TextEvent("ef"))), Request(query="gh")]
    states = [one.engine.resolve(request) for request in requests]

    def look_up(text: str, _sentence: object) -> None:
        looked_up.append(text)
        call.is_cancelled = True

    monkeypatch.setattr(one.engine.stages.names, "by_meaning", look_up)
    monkeypatch.setattr(one.ranker, "run", None)
    for state in states:
        state.call = call
    one.engine.run(states)
    assert looked_up == ["ab"]
    assert [state.error for state in states] == [None, None]


def test_requests_are_neither_scored_nor_searched_for_once_the_call_is_over(
    one: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after, scored, aims = ticket(), ticket(), list[str](), one.engine.scoring.aims
    other = Request(query="ef")
    states = [one.engine.resolve(request) for request in (Request(query="ab"), Request(query="cd"), other)]
    states[0].call, states[1].call = before, after

    def compose_and_cancel(stages: Stages, state: RequestState) -> None:
        compose(stages, state)
        before.is_cancelled = True

    def score_and_cancel(asked: Sequence[Known]) -> list[Aim]:
        scored.extend(known.query for known in asked)
        after.is_cancelled = True
        return aims(asked)

    monkeypatch.setattr("swiftrec.server.pipeline.recommend.compose", compose_and_cancel)
    monkeypatch.setattr(one.engine.scoring, "aims", score_and_cancel)
    one.engine.run(states)
    assert scored == ["cd", "ef"]
    assert [bool(state.items) for state in states] == [False, False, True]
    assert states[2].items == answers(one, other)[0].items


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


def test_models_and_search_are_reached_through_the_engine_alone(
    one: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one.engine, "engine", FirstItem(one.engine.catalogue.items[0]))
    for name in ("encoder", "ranker"):
        monkeypatch.setattr(getattr(one, name), "run", None)
    monkeypatch.setattr(one.engine.catalogue, "search_many", None)
    message = pb.RecommendRequest(query="ab", history=[pb.Event(item_id="i3"), pb.Event(text="Film a0")])
    reply = answer_alone(one.worker(), RECOMMEND, message.SerializeToString())
    assert isinstance(reply, bytes)
    assert [item.item_id for item in pb.RecommendResponse.FromString(reply).items] == ["i0"]
