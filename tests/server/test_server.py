"""A real server over a socket: answers, filters, bad input."""

from __future__ import annotations

import urllib.request

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from swiftrec.server.app import App
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, encoder_pb2_grpc
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

_METHOD = "/swiftrec.v1.RecommenderService/Recommend"


def values(item: pb.RankedItem, name: str) -> list[str]:
    return [v for a in item.attributes if a.name == name for v in a.values]


def ids(reply: pb.RecommendResponse) -> list[str]:
    return [item.item_id for item in reply.items]


def fault(channel: grpc.Channel, data: bytes, method: str = _METHOD) -> tuple[int, str, str]:
    """(code, field, message) of the refusal of raw bytes."""
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method, bytes, bytes)(data, timeout=10)
    assert isinstance(caught.value, grpc.Call)
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return status.code, bad.field_violations[0].field, status.message


def test_query_and_history_change_the_results(recommender: RecommenderServiceStub) -> None:
    request = pb.RecommendRequest(
        history=[pb.Event(text="Toy Story (1995)"), pb.Event(item_id="50")], query="animated films for children"
    )
    reply = recommender.Recommend(request, timeout=10)
    assert len(reply.items) == 10
    assert [i.score for i in reply.items] == sorted((i.score for i in reply.items), reverse=True)
    assert reply.strategy == pb.STRATEGY_MODEL
    assert reply.events_used == 2
    assert (reply.bundle, reply.version > 0) == ("movielens-quick", True)
    assert [(event.index, event.item_id) for event in reply.resolved_events] == [(0, "1")]
    assert {"1", "50"}.isdisjoint(ids(reply))
    animated = sum("Animation" in values(item, "genre") for item in reply.items)
    plain = recommender.Recommend(pb.RecommendRequest(history=request.history), timeout=10)
    assert animated >= 5
    assert animated > sum("Animation" in values(item, "genre") for item in plain.items)  # control
    assert reply.timings.total_ms >= reply.timings.encode_ms > 0


def test_title_in_a_history_gives_the_results_of_its_id(recommender: RecommenderServiceStub) -> None:
    by_id, *by_text = (
        recommender.Recommend(pb.RecommendRequest(history=[event, pb.Event(item_id="100")], top_k=50), timeout=10)
        for event in (pb.Event(item_id="1"), pb.Event(text="Toy Story (1995)"), pb.Event(text="toy story"))
    )
    for reply in by_text:
        assert reply.items == by_id.items
        assert [(event.index, event.item_id) for event in reply.resolved_events] == [(0, "1")]
        assert reply.timings.encode_ms == 0  # nothing is left to encode


def test_history_is_recommended_when_exclude_history_is_false(recommender: RecommenderServiceStub) -> None:
    request = pb.RecommendRequest(history=[pb.Event(item_id="1")], top_k=1000, exclude_history=False)
    assert "1" in ids(recommender.Recommend(request, timeout=10))
    request.exclude_history = True
    assert "1" not in ids(recommender.Recommend(request, timeout=10))


def test_unknown_items_are_skipped_and_listed_in_both_fields(recommender: RecommenderServiceStub) -> None:
    reply = recommender.Recommend(pb.RecommendRequest(history=[pb.Event(item_id="no such")]), timeout=10)
    assert list(reply.unknown_item_ids) == list(reply.ignored) == ["no such"]
    assert reply.strategy == pb.STRATEGY_POPULARITY


def test_empty_request_is_answered_by_popularity(recommender: RecommenderServiceStub) -> None:
    reply = recommender.Recommend(pb.RecommendRequest(), timeout=10)
    assert reply.strategy == pb.STRATEGY_POPULARITY
    assert reply.items[0].title == "Star Wars (1977)"


def test_filters_are_combined(recommender: RecommenderServiceStub) -> None:
    def sample(name: str, *expected: str) -> pb.AttributeValues:
        return pb.AttributeValues(name=name, values=expected)

    conditions = pb.Filter(
        any_of=[sample("genre", "Comedy", "Western")],
        all_of=[sample("decade", "1990s")],
        none_of=[sample("genre", "Drama")],
        denied_item_ids=["1"],
    )
    reply = recommender.Recommend(pb.RecommendRequest(query="something funny", filter=conditions, top_k=50), timeout=10)
    assert len(reply.items) == 50
    for item in reply.items:
        assert {"Comedy", "Western"} & set(values(item, "genre"))
        assert "Drama" not in values(item, "genre")
        assert values(item, "decade") == ["1990s"]
        assert item.item_id != "1"
    only = pb.RecommendRequest(query="x", filter=pb.Filter(allowed_item_ids=["1", "2", "none"]))
    assert set(ids(recommender.Recommend(only, timeout=10))) == {"1", "2"}


_MISSPELT = pb.RecommendRequest(
    query="x",
    filter=pb.Filter(
        any_of=[pb.AttributeValues(name="genre", values=["Comdy", "Comedy"])],
        none_of=[pb.AttributeValues(name="decade", values=["1890s"])],
        allowed_item_ids=["1", "no such"],
    ),
)
_UNKNOWN = ["genre=Comdy", "decade=1890s", "allowed_item_ids=no such"]


def test_unknown_filter_values_are_named(recommender: RecommenderServiceStub) -> None:
    reply = recommender.Recommend(_MISSPELT, timeout=10)
    assert (ids(reply), list(reply.unknown_filter_values)) == (["1"], _UNKNOWN)
    known = pb.Filter(any_of=[pb.AttributeValues(name="genre", values=["Comedy"])], denied_item_ids=["no such"])
    assert not recommender.Recommend(pb.RecommendRequest(filter=known), timeout=10).unknown_filter_values


def test_unknown_filter_values_are_named_when_no_item_is_left(recommender: RecommenderServiceStub) -> None:
    conditions = pb.Filter(all_of=[pb.AttributeValues(name="genre", values=["comedy"])])
    reply = recommender.Recommend(pb.RecommendRequest(filter=conditions), timeout=10)
    assert (ids(reply), list(reply.unknown_filter_values)) == ([], ["genre=comedy"])


def test_unknown_filter_values_are_named_in_batches_and_streams(recommender: RecommenderServiceStub) -> None:
    plain = pb.RecommendRequest(query="x")
    entries = recommender.BatchRecommend(pb.BatchRecommendRequest(requests=[plain, _MISSPELT]), timeout=10).results
    streamed = recommender.StreamRecommend(
        iter(pb.StreamRecommendRequest(request=request) for request in (plain, _MISSPELT)), timeout=10
    )
    for results in ([entry.response for entry in entries], [reply.result.response for reply in streamed]):
        assert [list(result.unknown_filter_values) for result in results] == [[], _UNKNOWN]


def test_batch_request_answers_each_entry_separately(recommender: RecommenderServiceStub) -> None:
    good = pb.RecommendRequest(query="a good western")
    bad = pb.RecommendRequest(query="x", top_k=0)
    results = recommender.BatchRecommend(pb.BatchRecommendRequest(requests=[good, bad, good]), timeout=10).results
    assert [r.WhichOneof("result") for r in results] == ["response", "error", "response"]
    assert (results[1].error.code, results[1].error.field) == (code_pb2.INVALID_ARGUMENT, "top_k")
    alone = recommender.Recommend(good, timeout=10)
    assert ids(results[0].response) == ids(results[2].response) == ids(alone)


def test_encode_gives_unit_vectors(channel: grpc.Channel) -> None:
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    reply = stub.Encode(encoder_pb2.EncodeRequest(texts=["a good western", "Toy Story"]), timeout=10)
    vectors = np.frombuffer(reply.vectors, "<f4").reshape(reply.rows, reply.dimensions)
    assert vectors.shape == (2, 128)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (pb.RecommendRequest(top_k=0), "top_k"),
        (pb.RecommendRequest(top_k=1001), "top_k"),
        (pb.RecommendRequest(top_k=-1), "top_k"),
        (pb.RecommendRequest(query="x" * 2001), "query"),
        (pb.RecommendRequest(query="  "), "query"),
        (pb.RecommendRequest(query="\u200b\ufeff"), "query"),
        (pb.RecommendRequest(history=[pb.Event(text="\u200d")]), "history[0].text"),
        (pb.RecommendRequest(history=[pb.Event(item_id="1"), pb.Event()]), "history[1]"),
        (pb.RecommendRequest(history=[pb.Event(item_id="")]), "history[0].item_id"),
        (pb.RecommendRequest(history=[pb.Event(text="")]), "history[0].text"),
        (pb.RecommendRequest(history=[pb.Event(item_id="1")] * 1001), "history"),
        (
            pb.RecommendRequest(filter=pb.Filter(any_of=[pb.AttributeValues(name="x", values=["y"])])),
            "filter.any_of[0].name",
        ),
        (pb.RecommendRequest(filter=pb.Filter(all_of=[pb.AttributeValues(name="genre")])), "filter.all_of[0].values"),
        (pb.RecommendRequest(filter=pb.Filter(denied_item_ids=["1"] * 10_001)), "filter.denied_item_ids"),
        (pb.RecommendRequest(filter=pb.Filter(any_of=[pb.AttributeValues()] * 65)), "filter.any_of"),
        (
            pb.RecommendRequest(filter=pb.Filter(none_of=[pb.AttributeValues(name="genre", values=["x"] * 1_001)])),
            "filter.none_of[0].values",
        ),
        (pb.RecommendRequest(query="a\0b"), "query"),
        (pb.RecommendRequest(history=[pb.Event(text="a\0b")]), "history[0].text"),
        (pb.RecommendRequest(history=[pb.Event(text="x" * 2001)]), "history[0].text"),
        (pb.RecommendRequest(history=[pb.Event(item_id="a\0b")]), "history[0].item_id"),
        (pb.RecommendRequest(history=[pb.Event(item_id="x" * 2001)]), "history[0].item_id"),
        (pb.RecommendRequest(bundle="a\0b"), "bundle"),
        (pb.RecommendRequest(priority=-1), "priority"),
        (pb.RecommendRequest(filter=pb.Filter(allowed_item_ids=["1", "a\0b"])), "filter.allowed_item_ids[1]"),
        (pb.RecommendRequest(filter=pb.Filter(allowed_item_ids=["1"] * 10_001)), "filter.allowed_item_ids"),
        (pb.RecommendRequest(filter=pb.Filter(denied_item_ids=["a\0b"])), "filter.denied_item_ids[0]"),
        (pb.RecommendRequest(filter=pb.Filter(all_of=[pb.AttributeValues(values=["y"])])), "filter.all_of[0].name"),
        (
            pb.RecommendRequest(filter=pb.Filter(all_of=[pb.AttributeValues(name="a\0b", values=["y"])])),
            "filter.all_of[0].name",
        ),
        (
            pb.RecommendRequest(filter=pb.Filter(none_of=[pb.AttributeValues(name="genre", values=["y", "a\0b"])])),
            "filter.none_of[0].values[1]",
        ),
        (pb.RecommendRequest(priority=10), "priority"),
        (pb.RecommendRequest(version=-1), "version"),
    ],
)
def test_invalid_field_is_refused_by_name(
    channel: grpc.Channel, request_message: pb.RecommendRequest, field: str
) -> None:
    assert fault(channel, request_message.SerializeToString())[:2] == (code_pb2.INVALID_ARGUMENT, field)


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (encoder_pb2.EncodeRequest(), "texts"),
        (encoder_pb2.EncodeRequest(texts=["x"] * 257), "texts"),
        (encoder_pb2.EncodeRequest(texts=["x", " "]), "texts[1]"),
        (encoder_pb2.EncodeRequest(texts=["x", "\u2060\u3000"]), "texts[1]"),
        (encoder_pb2.EncodeRequest(texts=["x", ""]), "texts[1]"),
        (encoder_pb2.EncodeRequest(texts=["a\0b"]), "texts[0]"),
        (encoder_pb2.EncodeRequest(texts=["x" * 2001]), "texts[0]"),
        (encoder_pb2.EncodeRequest(texts=["x"], priority=10), "priority"),
        (encoder_pb2.EncodeRequest(texts=["x"], version=-1), "version"),
        (encoder_pb2.EncodeRequest(texts=["x"], bundle="a\0b"), "bundle"),
    ],
)
def test_invalid_field_of_encode_is_refused_by_name(
    channel: grpc.Channel, request_message: encoder_pb2.EncodeRequest, field: str
) -> None:
    actual = fault(channel, request_message.SerializeToString(), "/swiftrec.v1.EncoderService/Encode")
    assert actual[:2] == (code_pb2.INVALID_ARGUMENT, field)


@pytest.mark.parametrize("entries", [0, 257])
def test_empty_or_too_large_batch_request_is_refused_by_name(channel: grpc.Channel, entries: int) -> None:
    data = pb.BatchRecommendRequest(requests=[pb.RecommendRequest()] * entries).SerializeToString()
    actual = fault(channel, data, "/swiftrec.v1.RecommenderService/BatchRecommend")
    assert actual[:2] == (code_pb2.INVALID_ARGUMENT, "requests")


def test_invalid_message_of_a_stream_is_refused_by_name_and_the_stream_continues(
    recommender: RecommenderServiceStub,
) -> None:
    messages = [pb.RecommendRequest(top_k=-1), pb.RecommendRequest(query="a\0b"), pb.RecommendRequest(query="x")]
    requested = iter(pb.StreamRecommendRequest(request=message) for message in messages)
    results = [reply.result for reply in recommender.StreamRecommend(requested, timeout=10)]
    assert [result.error.field for result in results] == ["top_k", "query", ""]
    assert {result.error.code for result in results[:2]} == {code_pb2.INVALID_ARGUMENT}
    assert results[2].response.items


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x02\xff\xfe",  # a query that is not UTF-8
        b"\x0a\x04\x12\x02\xff\xfe",  # the text of an event that is not
        b"\x12\x7fabc",  # a query that is shorter than it says
        b"\xff\xff\xff\xff",
    ],
)
def test_malformed_bytes_are_refused_with_the_message_type(channel: grpc.Channel, data: bytes) -> None:
    code, _, message = fault(channel, data)
    assert code == code_pb2.INVALID_ARGUMENT
    assert "malformed protobuf: not a RecommendRequest, or a text in it is not UTF-8" in message
    assert "Traceback" not in message


def test_health_is_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "swiftrec.v1.RecommenderService", "swiftrec.v1.EncoderService"):
        reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_count_outcomes(app: App, channel: grpc.Channel) -> None:
    fault(channel, pb.RecommendRequest(top_k=0).SerializeToString())
    with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert 'swiftrec_call_seconds_count{code="INVALID_ARGUMENT",method="Recommend"}' in text
    assert "swiftrec_batch_size" in text
