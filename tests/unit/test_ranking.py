"""The entries of a list: they take each step together, and each meets its own fate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest

from server.batching.job import Job, State
from server.catalogue.blend import FACTS, Aim, Known
from server.catalogue.catalogue import Catalogue, Item
from server.errors import Cancelled, NotFound, Overloaded, SwiftrecError
from server.pipeline.call import Call, finish
from server.pipeline.domain import ItemEvent, Recommendation, Request, Strategy, TextEvent
from server.pipeline.encodings import Encodings
from server.pipeline.ranking import Rankings
from server.pipeline.recommender import Recommender
from server.pipeline.steps import Parts
from server.pipeline.wanted import Found
from tests import tables

_EVER = 1e9


class Queue:
    """A batcher by hand: jobs wait until the test runs them to this answer; those of so many tokens are refused."""

    def __init__(self, answer: object) -> None:
        self._answer = answer
        self.groups: list[list[Job[Any, Any]]] = []
        self.refuses = -1

    @property
    def jobs(self) -> list[Job[Any, Any]]:
        return [job for group in self.groups for job in group if job.state is not State.CANCELLED]

    def submit_many(self, jobs: Sequence[Job[Any, Any]]) -> list[SwiftrecError | None]:
        self.groups.append([job for job in jobs if job.tokens != self.refuses])
        return [Overloaded(1.0) if job.tokens == self.refuses else None for job in jobs]

    def cancel(self, job: Job[Any, Any]) -> bool:
        job.state = State.CANCELLED
        return True

    def extend(self, *_: object) -> bool:
        return True

    def run(self) -> None:
        jobs, self.groups = self.jobs, []
        for job in jobs:
            job.done(self._answer)


class Letters:
    """A tokenizer: a token for each letter."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        self.calls += 1
        return [[ord(letter) for letter in text] for text in texts]


class Bench:
    """A list on its way, with queues by hand."""

    def __init__(
        self, *requests: Request, exclude_history: bool = True, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        vector = np.ones(2, dtype=np.float32)
        whole = np.array([1, 1, 5, 6, 7], dtype=np.float32)  # with a sentence half of three
        self.compared = np.concatenate([vector, np.zeros(3 + FACTS, dtype=np.float32)])
        self.letters, self.encoder, self.ranker = Letters(), Queue(whole), Queue(Found(self.compared))
        titles = ["Alpha (1990)", "Beta (1991)", "Gamma (1992)", "Delta (1993)"]
        items = [Item(str(n), title, title, {}, float(n)) for n, title in enumerate(titles)]
        catalogue = Catalogue(items, np.eye(4, 2, dtype=np.float32), np.zeros((4, 3), np.float32))
        encodings = Encodings(cast(Any, self.encoder), 0)
        parts = Parts(
            tokenizer=self.letters,
            encodings=encodings,
            ranker=cast(Any, self.ranker),
            catalogue=catalogue,
            scoring=tables.scoring(titles),
            names=tables.names(titles, catalogue.sentences),
            max_history=5,
            exclude_history=exclude_history,
            clock=clock,
        )
        self.parts = parts
        self.recommender = Recommender(parts)
        self.call = Call(_EVER, clock=lambda: 0.0)
        self.call.expect(1)
        self.has_ended = not self.call.then(self._end)
        self.rankings = Rankings(parts, requests, self.call)

    def _end(self) -> None:
        self.has_ended = True


def test_entries_take_each_step_together() -> None:
    one = Bench(Request(query="abc"), Request(history=(TextEvent("abc"), TextEvent("de"))), Request(query="fghi"))
    one.rankings.start()
    assert one.letters.calls == 1
    assert [len(group) for group in one.encoder.groups] == [3]  # "abc" once
    one.encoder.run()
    assert [[job.tokens for job in group] for group in one.ranker.groups] == [[1, 2, 1]]
    assert not one.has_ended
    one.ranker.run()
    assert one.has_ended
    assert all(isinstance(answer, Recommendation) for answer in one.rankings.outcomes())


def test_ranker_and_clients_get_the_half_that_is_for_them() -> None:
    one = Bench(Request(history=(ItemEvent("1"), TextEvent("abc")), query="de"))
    one.rankings.start()
    one.encoder.run()
    (job,) = one.ranker.jobs
    assert [vector.tolist() for vector in job.payload.user.vectors] == [[0, 1], [1, 1], [1, 1]]
    call = Call(_EVER, clock=lambda: 0.0)
    encoding = one.recommender.encode(["abc", "de"], call)
    encoding.send(None)  # up to where it waits for its vectors
    one.encoder.run()
    assert finish(encoding).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("default", [True, False])
def test_bundle_decides_on_the_history_where_a_request_does_not(default: bool) -> None:
    history = (ItemEvent("1"),)
    requests = [Request(history=history, exclude_history=wanted) for wanted in (None, True, False)]
    one = Bench(*requests, exclude_history=default)
    one.rankings.start()
    one.ranker.run()
    answers = [answer for answer in one.rankings.outcomes() if isinstance(answer, Recommendation)]
    assert ["1" in {item.id for item, _ in answer.items} for answer in answers] == [not default, False, True]


def test_who_has_gone_already_asks_for_nothing() -> None:
    one = Bench()
    one.call.cancel()
    for work in (one.recommender.recommend(Request(query="abc"), one.call), one.recommender.encode(["abc"], one.call)):
        with pytest.raises(Cancelled):
            finish(work)
    assert (one.letters.calls, one.encoder.groups) == (0, [])


def test_an_entry_that_is_refused_leaves_the_others_alone() -> None:
    one = Bench(Request(query="ab"), Request(query="abcd"), Request(history=(ItemEvent("1"),) * 3))
    one.encoder.refuses, one.ranker.refuses = 4, 3
    one.rankings.start()
    one.encoder.run()
    one.ranker.run()
    assert one.has_ended
    answers = one.rankings.outcomes()
    assert [type(answer) for answer in answers] == [Recommendation, Overloaded, Overloaded]


def test_an_error_takes_back_the_other_texts_of_its_entry_only() -> None:
    one = Bench(Request(query="ab", history=(TextEvent("abcd"), TextEvent("c"))), Request(query="de"))
    one.encoder.refuses = 4
    one.rankings.start()
    assert [bytes(job.payload.tolist()) for job in one.encoder.jobs] == [b"de"]
    one.encoder.run()
    assert [job.tokens for job in one.ranker.jobs] == [1]


def test_what_needs_no_model_waits_for_none() -> None:
    one = Bench(Request(), Request(history=(ItemEvent("unknown"),)))
    one.rankings.start()
    assert one.has_ended
    answers = [answer for answer in one.rankings.outcomes() if isinstance(answer, Recommendation)]
    assert [answer.strategy for answer in answers] == [Strategy.POPULARITY] * 2
    assert [answer.ignored for answer in answers] == [[], ["unknown"]]
    assert not one.encoder.groups + one.ranker.groups


def test_a_cancel_takes_back_what_waits_for_either_model() -> None:
    requests = Request(query="ab"), Request(query="cd")
    for steps in (0, 1):
        one = Bench(*requests)
        one.rankings.start()
        if steps:
            one.encoder.run()
        queue = one.ranker if steps else one.encoder
        assert len(queue.jobs) == len(requests)
        one.call.cancel()
        assert one.has_ended
        assert not queue.jobs


def test_a_call_that_is_over_before_it_begins_runs_nothing() -> None:
    one = Bench(Request(query="ab"))
    one.call.cancel()
    one.rankings.start()
    assert not one.encoder.jobs


def test_an_error_of_a_model_is_told_to_its_entry() -> None:
    one = Bench(Request(query="ab"), Request(query="cd"))
    one.rankings.start()
    first, second = one.encoder.jobs
    first.done(NotFound("no such thing"))
    second.done(np.ones(5, dtype=np.float32))
    one.ranker.run()
    assert [type(answer) for answer in one.rankings.outcomes()] == [NotFound, Recommendation]


def test_what_was_found_with_the_batch_is_answered_and_its_time_counts_as_retrieving() -> None:
    one = Bench(Request(query="ab"), Request(query="cd"))
    one.rankings.start()
    one.encoder.run()
    first, second = one.ranker.jobs
    item = Item("found", "", "", {}, 0.0)
    first.done(Found(one.compared, [(item, 0.5)], search_s=0.25))
    second.done(Found(one.compared))
    answers = [answer for answer in one.rankings.outcomes() if isinstance(answer, Recommendation)]
    assert answers[0].items == [(item, 0.5)]
    assert [found.id for found, _ in answers[1].items] == ["0", "1", "2", "3"]
    assert answers[0].timings.retrieve_ms == 250.0
    assert answers[0].timings.rank_ms == -250.0  # the clock stands still


def test_a_list_is_searched_for_at_its_end() -> None:
    for entries, wanted in ((3, 10), (4, 0)):
        one = Bench(*[Request(query=letter) for letter in "abcd"[:entries]])
        one.rankings.start()
        one.encoder.run()
        assert [job.payload.top_k for job in one.ranker.jobs] == [wanted] * entries


def test_knowing_texts_as_items_counts_as_retrieving(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    one = Bench(Request(history=(TextEvent("ab"),)), clock=lambda: now[0])

    def slow(*_: object) -> None:
        now[0] += 0.25

    monkeypatch.setattr(one.parts.names, "by_meaning", slow)
    one.rankings.start()
    now[0] += 1.0  # the encoder's
    one.encoder.run()
    now[0] += 2.0  # the ranker's
    one.ranker.run()
    (answer,) = one.rankings.outcomes()
    assert isinstance(answer, Recommendation)
    steps = answer.timings
    assert (steps.encode_ms, steps.rank_ms, steps.retrieve_ms, steps.total_ms) == (1000, 2000, 250, 3250)


def test_texts_are_not_looked_up_any_more_once_the_call_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Bench(Request(history=(TextEvent("ab"), TextEvent("cd"), TextEvent("ef"))), Request(query="gh"))
    looked_up: list[str] = []

    def look_up(text: str, _sentence: object) -> None:
        looked_up.append(text)
        one.call.cancel()

    monkeypatch.setattr(one.parts.names, "by_meaning", look_up)
    one.rankings.start()
    one.encoder.run()
    assert looked_up == ["ab"]
    assert not one.ranker.groups


def test_requests_are_not_scored_any_more_once_the_call_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    one, scored = Bench(Request(query="ab"), Request(query="cd")), list[str]()
    aim = one.parts.scoring.aim

    def cancelling(known: Known) -> Aim:
        scored.append(known.query)
        one.call.cancel()
        return aim(known)

    monkeypatch.setattr(one.parts.scoring, "aim", cancelling)
    one.rankings.start()
    one.encoder.run()
    assert scored == ["ab"]
    assert not one.ranker.groups
