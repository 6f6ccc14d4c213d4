"""The events of a history: which are items and which are read; server and evaluation treat them alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from swiftrec.export.blend.words import make_words
from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate import recommender as evaluation
from swiftrec.export.evaluate.recommender import Retrieval
from swiftrec.server.arrays import Vectors
from swiftrec.server.catalogue.blend import Blend, Scoring, Weights
from swiftrec.server.catalogue.history import History, Names
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.domain import Filter, Request, Strategy, TextEvent
from swiftrec.server.models.networks import EncoderModel, RankerModel
from swiftrec.server.pipeline.recommender import Recommender
from tests.server.support import small

_WIDTH = small.RANKER_WIDTH + small.SENTENCE_WIDTH
_MAX_HISTORY = 16  # of the small bundle


class FakeNames:
    """Texts of digits name their item; "about N" means it."""

    def by_name(self, text: str) -> int | None:
        return int(text) if text.isdecimal() else None

    def by_meaning(self, text: str, _sentence: Vectors) -> int | None:
        return int(text.split()[1]) if text.startswith("about ") else None


def test_events_beyond_the_history_limit_are_resolved_by_name_alone() -> None:
    history = History(FakeNames(), max_events=2)
    history.add_text(0, "about 1")
    history.add_text(1, "2")
    history.add_item(2, 3)
    history.add_text(4, "about 5")
    assert [event.index for event in history.read] == [2, 4]
    assert history.items == [2, 3]
    assert [history.recognise(event, np.zeros(1, np.float32)) for event in history.read] == [3, 5]
    assert history.items == [2, 3, 5]
    assert history.resolved == [(1, 2), (4, 5)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recommender]:
    with small.engine(small.write_bundle(tmp_path_factory.mktemp("small") / "1", same_item=0.9)) as engine:
        yield engine


def evaluated(running: Recommender) -> evaluation.EvaluatedRecommender:
    """The engine's parts as the evaluation puts them together."""
    catalogue, names = running.catalogue, running.stages.names
    encoder, ranker = EncoderModel(small.TinyEncoder()), RankerModel(small.TinyRanker(), small.RANKER_WIDTH)
    items = np.array([catalogue.event_vector(n) for n in range(small.ITEMS_COUNT)])
    popularity = np.array([int(item.popularity) for item in catalogue.items])

    def encode(texts: list[str]) -> Vectors:
        return np.array(encoder.run(running.tokenizer.encode(texts))).reshape(len(texts), _WIDTH)

    retrieval = Retrieval(running.scoring, names, catalogue.sentences, popularity)
    return evaluation.EvaluatedRecommender(
        encode, lambda rows: np.array(ranker.run(rows)), items, _MAX_HISTORY, retrieval=retrieval
    )


def test_server_excludes_the_same_items_as_the_tasks_and_scores_equally(running: Recommender) -> None:
    titles = small.titles()
    texts = [*titles, *(title.split(" (")[0] for title in titles), "Flim a0", "unheard of", small.BY_MEANING, "Film"]
    random, subject = np.random.default_rng(3), evaluated(running)
    histories = [random.integers(len(texts), size=size) for size in (*range(1, 25), 40)]
    cases = Cases(np.arange(len(histories)), histories, np.zeros(len(histories), np.int64))
    aimed, result = subject.of_texts(cases, texts)
    scores = subject.scores({"text": aimed})["text"](slice(None))
    for history, masked, row in zip(histories, result.histories, scores, strict=True):
        events = tuple(TextEvent(texts[n]) for n in history.tolist())
        (answer,) = small.ask(running, Request(history=events, top_k=small.ITEMS_COUNT, exclude_history=True))
        answered = {running.catalogue.position(item.id): score for item, score in answer.items}
        assert {*range(small.ITEMS_COUNT)} - {*answered} == {*masked.tolist()}
        for position, score in answered.items():
            assert position is not None
            assert row[position] == pytest.approx(score, abs=1e-4)


def test_requests_without_an_applicable_part_get_popular_items_in_server_and_evaluation(tmp_path: Path) -> None:
    """Not in the order of the catalogue."""
    folder, history = small.write_bundle(tmp_path / "1", weights=Weights(ranker=0, words=1)), np.array([0, 5])
    with small.engine(folder) as engine:
        texts, cases = small.titles(), Cases(np.arange(1), [history], np.zeros(1, np.int64))
        aimed, _ = evaluated(engine).of_texts(cases, texts)
        row = evaluated(engine).scores({"text": aimed})["text"](slice(None))[0]
        (answer,) = small.ask(engine, Request(history=tuple(TextEvent(texts[n]) for n in history.tolist())))
        popular = engine.catalogue.popular(engine.catalogue.resolve_filter(Filter(), history.tolist()), 10)
    row[history] = -np.inf
    assert answer.strategy is Strategy.POPULARITY
    assert [item.id for item, _ in answer.items] == [item.id for item, _ in popular]
    assert [f"i{n}" for n in np.argsort(-row, kind="stable")[:10]] == [item.id for item, _ in popular]


_TITLES = ["red chair", "blue lamp", "green vase", "red chair"]  # two items have one title
_RECENT = 2


def subject() -> evaluation.EvaluatedRecommender:
    """Four items; a text's two halves are those of the first item with that title."""
    items = np.eye(4, dtype=np.float32)

    def encode(texts: list[str]) -> Vectors:
        rows = items[[_TITLES.index(text) for text in texts]]
        return np.concatenate([rows, rows], axis=1)

    words = make_words(_TITLES, _TITLES)
    scoring = Scoring(Blend([]), Memory.empty(4), words, 4)
    retrieval = Retrieval(scoring, Names(words, items, 0.5, _TITLES.__getitem__), items, np.ones(4, dtype=np.int64))
    return evaluation.EvaluatedRecommender(
        encode, lambda rows: np.array([row.vectors[-1] for row in rows]), items, _RECENT, None, retrieval
    )


def test_old_event_is_resolved_only_by_name_when_another_user_has_it_recently() -> None:
    histories = [np.array([0, 1]), np.array([0, 1, 2])]
    cases = Cases(np.arange(2), histories, np.array([2, 3]))
    _, result = subject().of_texts(cases, _TITLES)
    recent, old = (history.tolist() for history in result.histories)
    assert recent == [0, 1]  # its meaning says which of the two items of that title it is
    assert old == [1, 2]
    _, alone = subject().of_texts(cases.take(np.array([1])), _TITLES)
    assert alone.histories[0].tolist() == old
