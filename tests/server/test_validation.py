"""Requests are validated and limited; responses have every field."""

from __future__ import annotations

import contextlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.server.domain import Item, Recommendation, Strategy, Timings
from swiftrec.server.errors import InvalidRequest
from swiftrec.server.messages import decode
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.text import is_blank
from swiftrec.server.worker.respond import to_response, write_response
from swiftrec.server.worker.validate import InputLimits, check_batch, check_text, to_request


def _answer(*items: tuple[Item, float]) -> pb.RecommendResponse:
    return to_response(Recommendation(list(items), ["gone"], Strategy.MODEL, 2, Timings(total_ms=1.5)), "films", 3)


def test_every_field_of_an_item_is_always_written() -> None:
    heat = Item("heat", "Heat (1995)", "", {"genre": ["Crime", "Thriller"], "year": ["1995"]}, 7.0)
    plain = Item("plain", "", "", {}, 0.0)
    for score in (0.5, -1.0, 0.0):
        message = _answer((heat, score), (plain, score - 1))
        expected = [
            pb.RankedItem(
                item_id="heat",
                title="Heat (1995)",
                score=score,
                attributes=[
                    pb.AttributeValues(name="genre", values=["Crime", "Thriller"]),
                    pb.AttributeValues(name="year", values=["1995"]),
                ],
            ),
            pb.RankedItem(item_id="plain", score=score - 1),
        ]
        assert list(message.items) == expected
        assert (message.bundle, message.version, message.events_used) == ("films", 3, 2)
        assert list(message.unknown_item_ids) == list(message.ignored) == ["gone"]
        assert (message.strategy, message.timings.total_ms) == (pb.STRATEGY_MODEL, 1.5)


def test_item_cache_is_separate_for_each_catalogue() -> None:
    old, new = Item("1", "before", "", {}, 0.0), Item("1", "after", "", {}, 0.0)
    assert [_answer((item, 1.0)).items[0].title for item in (old, new, old)] == ["before", "after", "before"]


def test_response_in_a_batch_has_the_bytes_of_protobuf() -> None:
    long = Item("long", "x" * 200, "", {"genre": ["Drama"] * 50}, 0.0)  # its length takes two bytes
    plain, score = Item("plain", "", "", {}, 0.0), 0.1
    answer = Recommendation([(long, score), (plain, -score)], ["gone"], Strategy.MODEL, 2, Timings(1.5, total_ms=2.5))
    reply = pb.BatchRecommendResponse()
    write_response(reply.results.add().response, answer, "films", 3)
    expected = pb.RecommendResponse(
        items=[
            pb.RankedItem(
                item_id="long",
                title="x" * 200,
                score=score,
                attributes=[pb.AttributeValues(name="genre", values=["Drama"] * 50)],
            ),
            pb.RankedItem(item_id="plain", score=-score),
        ],
        ignored=["gone"],
        unknown_item_ids=["gone"],
        strategy=pb.STRATEGY_MODEL,
        events_used=2,
        bundle="films",
        version=3,
        timings=pb.Timings(tokenise_ms=1.5, total_ms=2.5),
    )
    built = pb.BatchRecommendResponse(results=[pb.BatchRecommendResult(response=expected)])
    assert reply.SerializeToString() == built.SerializeToString()


def test_response_without_items_is_valid() -> None:
    entry = pb.BatchRecommendResult()
    write_response(entry.response, Recommendation([], [], Strategy.POPULARITY, 0, Timings()), "films", 3)
    assert entry.WhichOneof("result") == "response"
    assert entry.response.strategy == pb.STRATEGY_POPULARITY


def test_unknown_filter_values_are_bounded_in_number_and_length() -> None:
    values = [f"genre={'x' * 1_000}", *(f"genre={n}" for n in range(500))]
    message = to_response(Recommendation([], [], Strategy.MODEL, 0, Timings(), values), "films", 3)
    named = list(message.unknown_filter_values)
    assert len(named) == 100
    assert named[0] == f"genre={'x' * 191}..."
    assert named[1:] == values[1:100]
    plain = to_response(Recommendation([], [], Strategy.MODEL, 0, Timings()), "films", 3)
    assert list(plain.unknown_filter_values) == []


def _events(number: int) -> list[pb.Event]:
    return [pb.Event(item_id=str(n)) for n in range(number)]


def _filter(ids: int, values: int) -> pb.Filter:
    names = [str(n) for n in range(max(ids, values))]
    conditions = [pb.AttributeValues(name="genre", values=names[:values])] if values else []
    return pb.Filter(allowed_item_ids=names[:ids], denied_item_ids=names[:ids], any_of=conditions, none_of=conditions)


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([pb.RecommendRequest(top_k=1_000)] * 256, "asks for 256000 items in all, more than --max-items (20000)"),
        ([pb.RecommendRequest(top_k=1_000)] * 20 + [pb.RecommendRequest()], "asks for 20010 items in all"),
        (
            [pb.RecommendRequest(history=_events(1_000), top_k=1)] * 256,
            "has 256000 events in all, more than --max-events (20000)",
        ),
        (
            [pb.RecommendRequest(history=_events(500), query="x", top_k=1)] * 41,
            "has 20500 events in all, more than --max-events (20000)",
        ),
        (
            [pb.RecommendRequest(filter=_filter(1_000, 0))] * 11,
            "has 22000 ids and values of filters in all, more than --max-filter-values (20000)",
        ),
        ([pb.RecommendRequest(filter=_filter(0, 1_000))] * 11, "has 22000 ids and values of filters in all"),
    ],
)
def test_batch_request_over_a_total_limit_is_refused_with_its_setting(
    requests: list[pb.RecommendRequest], said: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_batch(requests, InputLimits())
    assert caught.value.field == "requests"
    assert said in caught.value.rule
    assert caught.value.rule.endswith("fewer entries in one call")


def test_batch_request_at_the_limits_is_accepted() -> None:
    full = pb.RecommendRequest(history=_events(100), top_k=100, filter=_filter(40, 10))
    check_batch([full] * 200, InputLimits())
    bad = pb.RecommendRequest(top_k=2**31 - 1)  # which is refused alone, and spoils no other entry
    check_batch([bad, full, pb.RecommendRequest(top_k=-5)], InputLimits())


def test_single_request_has_the_same_limits() -> None:
    limits = InputLimits(items=50, events=5, filter_values=100)
    for request, field, said in (
        (pb.RecommendRequest(top_k=51), "top_k", "asks for 51 items in all, more than --max-items (50)"),
        (pb.RecommendRequest(history=_events(6)), "history", "has 6 events in all, more than --max-events (5)"),
        (pb.RecommendRequest(filter=_filter(20, 31)), "filter", "has 102 ids and values of filters in all"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            to_request(request, limits)
        assert (caught.value.field, said in caught.value.rule) == (field, True)
    to_request(pb.RecommendRequest(top_k=50, history=_events(5), filter=_filter(20, 30)), limits)


def test_equal_values_and_ids_of_a_filter_are_kept_once() -> None:
    conditions = [pb.AttributeValues(name="genre", values=["a", "b"] * 300)]
    made = pb.Filter(all_of=conditions, allowed_item_ids=["1"] * 600, denied_item_ids=["2"] * 600)
    actual = to_request(pb.RecommendRequest(filter=made), InputLimits()).conditions
    assert [condition.values for condition in actual.all_of] == [("a", "b")]
    assert [*actual.allowed, *actual.denied] == ["1", "2"]


INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\u200d\u200c",
    "\u2060",
    "\u00ad",
    "\u202e",
    " \t\n\r",
    "\u3000\u00a0\u2028",
    "\x01\x7f\x85",
]


INVISIBLE += ["\u3164", "\u2800", "\ufe0f", "\u034f", "\U000e0041", "\u180e", "\u200b \ufeff"]


@pytest.mark.parametrize("text", INVISIBLE)
def test_text_is_refused_when_every_character_is_invisible(text: str) -> None:
    assert is_blank(text)
    with pytest.raises(InvalidRequest, match="query: must have a visible character"):
        check_text(text, "query", InputLimits())
    assert check_text(f"{text}a", "query", InputLimits()) == f"{text}a"


def test_empty_text_is_refused() -> None:
    assert is_blank("")
    with pytest.raises(InvalidRequest, match="query: must not be empty"):
        check_text("", "query", InputLimits())


@pytest.mark.parametrize("text", ["a", "?", "1", "é", "映", "🎬", "\u0301", "\ue000", "\u200b?\u200b", "👩\u200d🚀"])
def test_visible_text_is_kept(text: str) -> None:
    assert not is_blank(text)


@given(st.characters())
def test_letters_digits_and_symbols_are_visible_and_spaces_and_controls_are_not(char: str) -> None:
    category = unicodedata.category(char)
    if category in {"Zs", "Zl", "Zp", "Cc", "Cf"} or char.isspace():
        assert is_blank(char)
    if category in {"Ll", "Lu", "Nd", "Nl", "No", "Pd", "Ps", "Sc", "Sm"}:
        assert not is_blank(char)


def test_text_over_the_limit_is_refused_before_its_characters_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def is_blank(text: str) -> bool:
        looked.append(text)
        return False

    monkeypatch.setattr("swiftrec.server.worker.validate.is_blank", is_blank)
    limits = InputLimits()
    with pytest.raises(InvalidRequest, match="at most 2000 characters, got 4000000"):
        check_text(" " * 4_000_000, "query", limits)
    assert looked == []
    check_text("a western", "query", limits)
    assert looked == ["a western"]


_VALID = pb.RecommendRequest(
    history=[pb.Event(item_id="50"), pb.Event(text="Toy Story")],
    query="a good western",
    top_k=5,
    filter=pb.Filter(any_of=[pb.AttributeValues(name="genre", values=["Comedy"])]),
).SerializeToString()


def read(data: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        message = decode(pb.RecommendRequest, data)
        assert isinstance(message, pb.RecommendRequest)
        to_request(message, InputLimits())


@given(st.binary(max_size=200))
def test_random_bytes_are_parsed_or_refused(data: bytes) -> None:
    read(data)


@given(
    st.lists(st.tuples(st.integers(0, len(_VALID) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(_VALID))
)
def test_mutated_requests_are_parsed_or_refused(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(_VALID)
    for index, byte in changes:
        data[index] = byte
    read(bytes(data[:length]))
