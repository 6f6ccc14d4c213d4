"""Texts of a history that are recognised as items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swiftrec.export.blend.words import make_words
from swiftrec.server.catalogue.blend import ScoreTerms, ScoringInput, Weights
from swiftrec.server.catalogue.history import Names, numbered_alike
from swiftrec.server.catalogue.sparse import Entries
from swiftrec.server.domain import ItemEvent, Recommendation, Request, Strategy, TextEvent
from swiftrec.server.errors import InternalError
from swiftrec.server.parts import PARTS
from swiftrec.server.pipeline.recommend import explain
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.worker.respond import to_response
from tests.server.support import small

_TITLES = [
    "Die Hard (1988)",
    "Rocky III (1982)",
    "Forrest Gump (1994)",
    "Apollo 13 (1995)",
    "Taxi Driver (1976)",
    "The Shawshank Redemption (1994)",
]


_TEXTS = [f"{title}. Drama" for title in _TITLES]


def meant(text: str, titles: list[str] = _TITLES) -> str | None:
    """The title of the item that a text is; its sentence vector is that of the item whose first word it has."""
    texts = [f"{title}. Drama" for title in titles]
    sentences = np.eye(len(titles), dtype=np.float32)
    names = Names(make_words(titles, texts), sentences, 0.8, titles.__getitem__)
    first = text.split()[0].casefold()[:3]
    near = [n for n, title in enumerate(titles) if title.casefold().startswith(first)]
    actual = names.by_meaning(text, sentences[near[0]] if near else np.zeros(len(titles), np.float32))
    return None if actual is None else titles[actual]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Die Hard", "Die Hard (1988)"),
        ("Die Hrad", "Die Hard (1988)"),
        ("Die Hard 3", None),
        ("Die Hard III", None),
        ("Rocky III", "Rocky III (1982)"),
        ("Rocky 3", None),  # the number is of this film, but half of the words are of none
        ("Rocky", None),  # its sequel alone is there
        ("Rocky II", None),
        ("Forest Gump 1994", "Forrest Gump (1994)"),
        ("The Shawshnk Redemption 94", "The Shawshank Redemption (1994)"),
        ("The Shawshnk Redemption 95", None),
        ("Apolo 13", "Apollo 13 (1995)"),
        ("Apolo", None),
        ("Taxi Drvier", "Taxi Driver (1976)"),
    ],
)
def test_text_does_not_match_an_item_with_another_number(text: str, title: str | None) -> None:
    assert meant(text) == title


def test_sequel_and_first_part_are_both_recognised() -> None:
    titles = [*_TITLES, "Rocky (1976)", "Die Hard 3 (1995)"]
    assert meant("Rocky", titles[:1] + titles[2:]) == "Rocky (1976)"
    assert meant("Die Hrad 3", titles[1:]) == "Die Hard 3 (1995)"


@pytest.mark.parametrize(
    ("text", "title", "is_alike"),
    [
        ("Rocky 2", "Rocky II", True),
        ("Rocky", "Rocky II", False),
        ("Rocky II", "Rocky", False),
        ("2 Fast 2 Furious", "2 Fast 2 Furious (2003)", True),
        ("Seven 95", "Seven (1995)", True),
        ("Seven 1996", "Seven (1995)", True),  # a mistyped year
        ("Malcolm X", "Malcolm X (1992)", True),
        ("Malcolm", "Malcolm X (1992)", False),
    ],
)
def test_numbers_are_compared_in_both_directions(text: str, title: str, *, is_alike: bool) -> None:
    assert numbered_alike(text, title) is is_alike


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recommender]:
    with small.engine(small.write_bundle(tmp_path_factory.mktemp("small") / "1", same_item=0.9)) as engine:
        yield engine


def history(*events: str) -> tuple[ItemEvent | TextEvent, ...]:
    """Events as texts; those that begin with `id:` are ids."""
    return tuple(ItemEvent(e.removeprefix("id:")) if e.startswith("id:") else TextEvent(e) for e in events)


def answer(running: Recommender, *events: str, query: str = "", exclude: bool | None = None) -> Recommendation:
    request = Request(history=history(*events), query=query, top_k=small.ITEMS_COUNT, exclude_history=exclude)
    return small.ask(running, request)[0]


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("Film a0 (1950)", "i0"),
        ("film A0, 1950", "i0"),  # typed: other letters' case and marks
        ("Film a0", "i0"),  # without the year
        ("Film a0 (1950). Genre g0", "i0"),  # the whole text
        (small.BY_MEANING, f"i{small.MEANT}"),
        ("Film", None),
        ("a film that is not in the catalogue", None),
    ],
)
def test_text_is_resolved_to_the_item_that_it_names(running: Recommender, text: str, item: str | None) -> None:
    actual = answer(running, text)
    assert actual.resolved == ([] if item is None else [(0, item)])
    assert (item in {entry.id for entry, _ in actual.items}) is False
    if item is not None:
        same = answer(running, f"id:{item}")
        assert [(entry.id, score) for entry, score in actual.items] == [
            (entry.id, score) for entry, score in same.items
        ]
    assert len(actual.items) == small.ITEMS_COUNT - (item is not None)


def test_resolved_items_are_in_the_order_of_the_history(running: Recommender) -> None:
    actual = answer(running, small.BY_MEANING, "id:i7", "unheard of", "Film c2", "id:nothing", "Film b1 (1951)")
    assert actual.resolved == [(0, "i3"), (3, "i2"), (5, "i1")]
    assert actual.unknown_item_ids == ["nothing"]
    assert {"i1", "i2", "i3", "i7"}.isdisjoint(item.id for item, _ in actual.items)
    message = to_response(actual, "small", 1)
    assert [(event.index, event.item_id) for event in message.resolved_events] == actual.resolved


def test_named_items_are_recommended_when_the_history_is_not_excluded(running: Recommender) -> None:
    actual = answer(running, "Film a0", "id:i5", exclude=False)
    assert {"i0", "i5"} <= {item.id for item, _ in actual.items}
    assert actual.resolved == [(0, "i0")]
    assert {"i0", "i5"}.isdisjoint(item.id for item, _ in answer(running, "Film a0", "id:i5", exclude=True).items)


def test_id_and_title_resolve_to_the_same_item(running: Recommender) -> None:
    actual, same = answer(running, "id:i4", "Film e4 (1954)"), answer(running, "id:i4", "id:i4")
    assert actual.resolved == [(1, "i4")]
    assert actual.items == same.items
    assert actual.events_used == 2
    assert len(actual.items) == small.ITEMS_COUNT - 1


def test_query_is_not_resolved_when_it_is_a_title(running: Recommender) -> None:
    actual = answer(running, query="Film a0 (1950)")
    assert actual.resolved == []
    assert "i0" in {item.id for item, _ in actual.items}


def test_named_items_are_not_encoded(running: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, tokenise = list[str](), running.tokenizer.encode

    def encode(texts: Sequence[str]) -> list[list[int]]:
        encoded.extend(texts)
        return tokenise(texts)

    monkeypatch.setattr(running.tokenizer, "encode", encode)
    answer(running, "Film a0", "unheard of", "Film b1 (1951)", query="Film c2")
    assert encoded == ["unheard of", "Film c2"]


def test_events_beyond_the_history_limit_are_still_excluded(running: Recommender) -> None:
    long = ["Film a0", *(f"id:i{n}" for n in range(1, 20))]
    actual = answer(running, *long)
    assert actual.events_used == 16
    assert {f"i{n}" for n in range(20)}.isdisjoint(item.id for item, _ in actual.items)
    assert actual.resolved == [(0, "i0")]


def test_named_items_are_recommended_when_the_bundle_includes_the_history(tmp_path: Path) -> None:
    with small.engine(small.write_bundle(tmp_path / "1", exclude_history=False)) as engine:
        assert "i0" in {item.id for item, _ in answer(engine, "Film a0").items}


def test_texts_are_resolved_by_name_only_without_a_threshold(tmp_path: Path) -> None:
    with small.engine(small.write_bundle(tmp_path / "1")) as engine:
        assert answer(engine, small.BY_MEANING, "Film a0").resolved == [(1, "i0")]


def test_ranker_ranks_when_it_is_the_only_part_though_its_weight_is_0(tmp_path: Path) -> None:
    folder = small.write_bundle(tmp_path / "1", weights=replace(small.WEIGHTS, ranker=0))
    with small.engine(folder, set(PARTS) - {"ranker"}) as engine:
        scores = [score for _, score in small.ask(engine, Request(query="film"))[0].items]
    assert len({*scores}) > 1


def test_disabled_parts_score_as_with_weights_of_0(tmp_path: Path) -> None:
    full = small.write_bundle(tmp_path / "full")
    bare = small.write_bundle(tmp_path / "bare", weights=replace(small.WEIGHTS, transitions=0, neighbours=0, words=0))
    request = Request(history=history("id:i4", "Film b1"), query="film genre g1")
    with small.engine(full, ["memory", "words"]) as off, small.engine(bare) as zero, small.engine(full) as whole:
        (actual,), (same,), (other,) = (small.ask(entry, request) for entry in (off, zero, whole))
    listed = [[(item.id, score) for item, score in entry.items] for entry in (actual, same, other)]
    assert listed[0] == listed[1] != listed[2]
    assert np.isfinite([score for _, score in listed[0]]).all()


def test_a_request_that_cannot_be_scored_fails_alone(running: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    terms = running.scoring.terms

    def fails(batch: Sequence[ScoringInput]) -> list[ScoreTerms]:
        if any(known.query == "film bad" for known in batch):
            raise ValueError("an error of ours")
        return terms(batch)

    monkeypatch.setattr(running.scoring, "terms", fails)
    requests = [Request(query=query, history=history("Film a0")) for query in ("film c2", "film bad", "film d3")]
    answers = running.recommend(requests)
    assert [isinstance(answer, InternalError) for answer in answers] == [False, True, False]
    alone = small.ask(running, requests[0])[0]
    assert isinstance(answers[0], Recommendation)
    assert answers[0].items == alone.items
    assert small.ask(running, Request(query="film c2"))[0].items


@pytest.mark.parametrize(
    ("part", "sent"), [("memory", Request(query="film")), ("words", Request(history=history("id:i4")))]
)
def test_popularity_ranks_when_no_enabled_part_applies(tmp_path: Path, part: str, sent: Request) -> None:
    """Not to the order of the catalogue."""
    with small.engine(small.write_bundle(tmp_path / "1"), set(PARTS) - {part}) as engine:
        actual, popular = small.ask(engine, sent, Request(top_k=small.ITEMS_COUNT))
    assert actual.strategy is Strategy.POPULARITY
    left_out = {event.item_id for event in sent.history if isinstance(event, ItemEvent)}
    expected = [item.id for item, _ in popular.items if item.id not in left_out]
    assert [item.id for item, _ in actual.items] == expected[: sent.top_k]


def test_enabled_part_ranks_when_it_applies(tmp_path: Path) -> None:
    """Negative control."""
    with small.engine(small.write_bundle(tmp_path / "1"), set(PARTS) - {"memory"}) as engine:
        assert small.ask(engine, Request(history=history("id:i4")))[0].strategy is Strategy.MODEL


def test_explaining_event_is_one_of_the_history(tmp_path: Path) -> None:
    """Its place counts events that are no items, unknown or too old to be read."""
    request = Request(
        history=history("unheard of", "id:nothing", "Film a0", *["id:i9"] * 14, "something", "id:i7"), top_k=40
    )
    folder = small.write_bundle(tmp_path / "1", weights=Weights(ranker=0, neighbours=1))
    with small.engine(folder) as engine:
        state = engine.resolve(request)
        engine.run([state])
        answer = engine.to_result(state)
        actual = explain(engine.stages, state)
    assert isinstance(answer, Recommendation)
    assert answer.events_used == 16
    np.testing.assert_allclose([sum(entry.parts.values()) for entry in actual], [s for _, s in answer.items], atol=1e-5)
    near = {index: engine.scoring.memory.near_weights([np.array([n])]) for index, n in ((3, 9), (18, 7))}
    for (item, _), entry in zip(answer.items, actual, strict=True):
        assert entry.event == strongest(near, int(item.id[1:]))


def strongest(near: Mapping[int, Entries], position: int) -> int | None:
    """The first place whose item adds most to the item at `position`; None if none adds anything."""
    added = {index: float(entry.values[entry.positions == position].sum()) for index, entry in near.items()}
    best = max(added, key=added.__getitem__)
    return best if added[best] > 0 else None
