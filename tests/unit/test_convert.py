"""A ranking as a message: what is kept from one answer to the next never mixes items, scores or bundles."""

from __future__ import annotations

from server.api.convert import fill, to_response
from server.catalogue.items import Item
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pipeline.domain import Recommendation, Strategy, Timings


def _answer(*items: tuple[Item, float]) -> pb.RecommendResponse:
    return to_response(Recommendation(list(items), ["gone"], Strategy.MODEL, 2, Timings(total_ms=1.5)), "films", 3)


def test_every_field_of_an_item_is_told_each_time() -> None:
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
        assert (list(message.ignored), message.strategy, message.timings.total_ms) == (["gone"], pb.STRATEGY_MODEL, 1.5)


def test_the_same_id_in_another_catalogue_is_another_item() -> None:
    old, new = Item("1", "before", "", {}, 0.0), Item("1", "after", "", {}, 0.0)
    assert [_answer((item, 1.0)).items[0].title for item in (old, new, old)] == ["before", "after", "before"]


def test_a_reply_in_a_list_has_the_bytes_of_one_that_protobuf_built() -> None:
    long = Item("long", "x" * 200, "", {"genre": ["Drama"] * 50}, 0.0)  # its length takes two bytes
    plain, score = Item("plain", "", "", {}, 0.0), 0.1
    answer = Recommendation([(long, score), (plain, -score)], ["gone"], Strategy.MODEL, 2, Timings(1.5, total_ms=2.5))
    reply = pb.BatchRecommendResponse()
    fill(reply.results.add().response, answer, "films", 3)
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
        strategy=pb.STRATEGY_MODEL,
        events_used=2,
        bundle="films",
        version=3,
        timings=pb.Timings(tokenise_ms=1.5, total_ms=2.5),
    )
    built = pb.BatchRecommendResponse(results=[pb.BatchRecommendResult(response=expected)])
    assert reply.SerializeToString() == built.SerializeToString()


def test_a_reply_without_items_is_a_reply() -> None:
    entry = pb.BatchRecommendResult()
    fill(entry.response, Recommendation([], [], Strategy.POPULARITY, 0, Timings()), "films", 3)
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
