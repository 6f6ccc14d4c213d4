"""What is sent: workloads that repeat themselves, and recordings that hold no text."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from swiftrec.benchmarks import workload
from swiftrec.benchmarks.client import ANY_SIZE, ResponseLog
from swiftrec.benchmarks.echo import Pause
from swiftrec.benchmarks.item_texts import Items, TokenCounter, TokenTexts, log_normal_lengths
from swiftrec.benchmarks.record import Recorder, proxy
from swiftrec.benchmarks.recording import FORMAT, Pseudonyms, Recording
from swiftrec.benchmarks.responses import read_responses
from swiftrec.benchmarks.workload import BATCH_ENTRIES, WORKLOADS, MethodName, Name, Requests, make, zipf
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.tokenizer import Tokenizer
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.encoder_pb2 import EncodeRequest
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendRequest, Event, RecommendRequest

_PRIVATE = "a film unheard of"


def recommends(payloads: list[bytes]) -> list[RecommendRequest]:
    return [RecommendRequest.FromString(payload) for payload in payloads]


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_repeats_itself_for_a_seed_and_differs_for_another(bundle: Bundle, name: Name) -> None:
    first, again, other = (make(name, bundle.folder, 20, seed) for seed in (3, 3, 4))
    assert first.payloads == again.payloads
    assert first.payloads != other.payloads
    assert len(first) == 20
    assert (first.entries == WORKLOADS[name].entries).all()


@pytest.mark.parametrize("tokens", [4, 5, 17, 128])
def test_texts_have_the_number_of_tokens_that_was_asked_for(bundle: Bundle, tokens: int) -> None:
    texts, random = TokenTexts(Items(bundle.folder), TokenCounter(bundle.folder)), np.random.default_rng(1)
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", 1_000)
    drawn = [texts.draw(tokens, random) for _ in range(50)]
    assert {len(row) for row in tokenizer.encode([text for text, _ in drawn])} == {tokens}
    assert {count for _, count in drawn} == {tokens}


def test_mixed_says_the_tokens_of_its_queries(bundle: Bundle) -> None:
    requests = make("mixed", bundle.folder, 100, seed=1)
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", 1_000)
    queries = [request.query for request in recommends(requests.payloads)]
    assert [len(row) for row in tokenizer.encode(queries)] == requests.tokens.tolist()
    assert len(set(queries)) > 95


def test_log_normal_lengths_have_their_median_and_stay_within_bounds() -> None:
    lengths = log_normal_lengths(20_000, 16.0, 0.8, 128, np.random.default_rng(1))
    assert np.median(lengths) == pytest.approx(16, abs=1)
    assert (lengths.min(), lengths.max()) == (4, 128)


def test_versions_stand_in_the_table_that_says_what_is_sent() -> None:
    rows = [line.split("|")[1:3] for line in str(workload.__doc__).splitlines() if line.startswith("| ")]
    assert {name.strip(): version.strip() for name, version in rows[1:]} == {
        name: str(kind.version) for name, kind in WORKLOADS.items()
    }


def test_short_asks_with_3_to_10_words_behind_20_ids_at_most(bundle: Bundle) -> None:
    result = recommends(make("short", bundle.folder, 400, seed=1).payloads)
    words = {len(request.query.split()) for request in result}
    assert words == set(range(3, 11))
    assert {len(request.history) for request in result} == set(range(21))


def test_history_has_ids_and_no_text(bundle: Bundle) -> None:
    result = recommends(make("history", bundle.folder, 50, seed=1).payloads)
    assert not any(request.query for request in result)
    assert {event.WhichOneof("event") for request in result for event in request.history} == {"item_id"}
    assert min(len(request.history) for request in result) >= 1


def test_hot_repeats_texts_and_mixed_does_not(bundle: Bundle) -> None:
    hot, mixed = (
        [request.query for request in recommends(make(name, bundle.folder, 1_000, seed=1).payloads)]
        for name in ("hot", "mixed")
    )
    assert len(set(hot)) < 0.75 * len(set(mixed))


def test_zipf_draws_the_first_twice_as_often_as_the_second() -> None:
    counts = np.bincount(zipf(100, 1.0, 200_000, np.random.default_rng(1)))
    assert counts[0] / counts[1] == pytest.approx(2.0, rel=0.05)
    assert counts[0] / counts[9] == pytest.approx(10.0, rel=0.1)


def test_list_holds_requests_of_mixed(bundle: Bundle) -> None:
    requests = make("list", bundle.folder, 3, seed=1)
    lists = [BatchRecommendRequest.FromString(payload) for payload in requests.payloads]
    assert {len(batch.requests) for batch in lists} == {BATCH_ENTRIES}
    assert requests.tokens.sum() == make("mixed", bundle.folder, 3 * BATCH_ENTRIES, seed=1).tokens.sum()


def test_shares_of_several_clients_are_the_whole(bundle: Bundle) -> None:
    requests = make("short", bundle.folder, 10, seed=1)
    parts = [requests.share(part, 3).payloads for part in range(3)]
    assert sorted(payload for part in parts for payload in part) == sorted(requests.payloads)


def recording(path: Path, calls: list[RecommendRequest], *, keep_texts: bool = False) -> Path:
    marks = Pseudonyms(lambda text: len(text.split()) + 2, keep_texts=keep_texts)
    lines = [{"format": FORMAT, "method": "recommend"}]
    lines += [
        {"t": n / 10, "requests": marks.call("recommend", call.SerializeToString())} for n, call in enumerate(calls)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_recording_holds_no_text_and_no_id_unless_configured(tmp_path: Path) -> None:
    call = RecommendRequest(query=_PRIVATE, history=[Event(text=_PRIVATE), Event(item_id="item-4711")])
    hidden = recording(tmp_path / "hidden", [call]).read_text()
    assert "unheard" not in hidden
    assert "4711" not in hidden
    clear = recording(tmp_path / "clear", [call], keep_texts=True).read_text()
    assert _PRIVATE in clear
    assert "item-4711" in clear


def test_lists_and_texts_to_encode_are_recorded_and_replayed_too(bundle: Bundle, tmp_path: Path) -> None:
    entries = [RecommendRequest(query="one two"), RecommendRequest(history=[Event(item_id="7")])]
    calls: dict[MethodName, BatchRecommendRequest | EncodeRequest] = {
        "batch": BatchRecommendRequest(requests=entries),
        "encode": EncodeRequest(texts=["one two", "three", "one two"]),
    }
    for method, call in calls.items():
        marks = Pseudonyms(lambda text: len(text.split()) + 2)
        seen = {"t": 0.0, "requests": marks.call(method, call.SerializeToString())}
        path = tmp_path / method
        path.write_text("\n".join(map(json.dumps, [{"format": FORMAT, "method": method}, seen])))
        assert "one two" not in path.read_text()
        requests = Recording.load(path).requests(bundle.folder, seed=1)
        assert (requests.method, requests.entries.tolist()) == (method, [2 if method == "batch" else 3])
        assert requests.tokens.tolist() == [4 if method == "batch" else 11]
        again = type(call).FromString(requests.payloads[0])
        if isinstance(again, EncodeRequest):
            assert again.texts[0] == again.texts[2] != again.texts[1]
        else:
            assert [len(entry.history) for entry in again.requests] == [0, 1]


def test_two_recordings_of_the_same_text_have_nothing_in_common(tmp_path: Path) -> None:
    item, two = (recording(tmp_path / name, [RecommendRequest(query=_PRIVATE)]) for name in "ab")
    assert Recording.load(item).calls[0][0]["query"][0] != Recording.load(two).calls[0][0]["query"][0]


def test_replay_has_the_same_lengths_times_and_repetitions(bundle: Bundle, tmp_path: Path) -> None:
    calls = [
        RecommendRequest(query="one two three", history=[Event(item_id="1"), Event(item_id="2")], top_k=3),
        RecommendRequest(query="one two three", history=[Event(item_id="1"), Event(text="four five")]),
        RecommendRequest(query="another one"),
    ]
    loaded = Recording.load(recording(tmp_path / "calls", calls))
    first, second, third = recommends(loaded.requests(bundle.folder, seed=1).payloads)
    assert loaded.times.tolist() == [0.0, 0.1, 0.2]
    assert first.query == second.query != third.query
    assert first.history[0] == second.history[0]
    assert first.top_k == 3
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", 1_000)
    texts = [first.query, second.history[1].text, third.query]
    assert [len(row) for row in tokenizer.encode(texts)] == [5, 4, 4]


def asked_with_filter() -> RecommendRequest:
    conditions = pb.Filter(
        allowed_item_ids=["11", "12"],
        denied_item_ids=["11"],
        none_of=[pb.AttributeValues(name="genre", values=["crime"])],
    )
    return RecommendRequest(
        query=_PRIVATE,
        history=[Event(text="four five"), Event(item_id="item-4711")],
        top_k=3,
        exclude_history=False,
        priority=2,
        filter=conditions,
    )


def test_replay_sends_what_was_kept_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    call = asked_with_filter()
    loaded = Recording.load(recording(tmp_path / "calls", [call], keep_texts=True))
    assert recommends(loaded.requests(bundle.folder, seed=1).payloads) == [call]


def test_replay_has_the_shape_of_a_filter_without_what_was_not_kept(bundle: Bundle, tmp_path: Path) -> None:
    path = recording(tmp_path / "calls", [asked_with_filter()])
    assert not {"crime", "genre"} & set(path.read_text().replace('"', " ").split())
    loaded = Recording.load(path)
    assert loaded.calls[0][0]["conditions"] == 1
    (again,) = recommends(loaded.requests(bundle.folder, seed=1).payloads)
    known = set(Items(bundle.folder).ids)
    allowed, denied = again.filter.allowed_item_ids, again.filter.denied_item_ids
    assert len(allowed) == 2
    assert {*allowed, *denied} <= known
    assert allowed[0] == denied[0], "one mark is one item"
    assert (again.top_k, again.exclude_history, again.priority) == (3, False, 2)
    assert again.HasField("exclude_history")
    assert not again.filter.none_of


def test_recorder_passes_on_messages_beyond_grpcs_own_limit() -> None:
    big = b"x" * (5 << 20)
    echoing = grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(lambda it, _: it)})
    server = grpc.server(ThreadPoolExecutor(1), options=[ANY_SIZE])
    server.add_generic_rpc_handlers((echoing,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[ANY_SIZE]) as behind:
        between, port = proxy(behind, Recorder("recommend", Pseudonyms(len), io.BytesIO()))
        between.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[ANY_SIZE]) as channel:
            assert channel.unary_unary("/a.B/C", None, None)(big, timeout=20) == big
        between.stop(None).wait()
    server.stop(None).wait()


@pytest.mark.parametrize("text", ["", "no json", '{"format": 1, "method": "recommend"}', '{"format": 9}\n{"t": 0}'])
def test_what_is_no_recording_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(RuntimeError, match="record"):
        Recording.load(tmp_path / "file")


def test_refused_entries_of_a_list_are_no_entries_and_no_wrong_answers() -> None:
    good = pb.BatchRecommendResult(response=pb.RecommendResponse(items=[pb.RankedItem(item_id="1")]))
    full, broken = (pb.BatchRecommendResult(error=pb.EntryError(code=code)) for code in (8, 13))
    payload = pb.BatchRecommendResponse(results=[good, full, good, broken]).SerializeToString()
    sample = read_responses("batch", [payload])
    assert (sample.rejected, sample.wrong, len(sample.steps_ms)) == (1, 1, 2)
    log = ResponseLog(Requests("batch", [b""], np.array([9], np.int32), np.array([4], np.int32)))
    log.add(0, 0.0, 0.0, 0, payload)
    assert log.freeze().entries.tolist() == [3]


def test_stall_holds_what_comes_within_it_until_its_end() -> None:
    now, slept = [0.0], list[float]()
    stall = Pause(1.0, 2.0, clock=lambda: now[0], sleep=slept.append)
    for moment in (5.0, 5.9, 6.0, 7.5, 8.0):
        now[0] = moment
        stall.wait()
    assert slept == pytest.approx([2.0, 0.5])
