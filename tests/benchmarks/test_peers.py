"""The comparison with other servers: right answers are told from wrong ones, rows say what was found."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip

from swiftrec.benchmarks.peers import family, install, messages, rounds
from swiftrec.benchmarks.peers.asked import Answer, Asked
from swiftrec.benchmarks.peers.measure import measure, rate_of
from swiftrec.benchmarks.peers.reference import right_scores
from swiftrec.benchmarks.peers.results import Entry, Results
from swiftrec.benchmarks.peers.servers.job import Job, read_ids, split_by_length
from swiftrec.benchmarks.peers.targets import Target, targets, tried
from swiftrec.benchmarks.peers.wire import UNKNOWN
from swiftrec.benchmarks.suite import apart
from swiftrec.benchmarks.summary import OK
from swiftrec.benchmarks.texts import texts as texts_of
from swiftrec.export.data.dataset import Item, write_items
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.benchmarks.peers import BUNDLE_ID, IDS, PLAN, TEXTS, TOKENS, fake, figures, scores


def test_splitting_keeps_the_order_and_saves_padding() -> None:
    rows = [[0] * length for length in (50, 3, 40, 4, 60, 5, 45)]
    padded: list[int] = []

    def run(part: list[list[int]]) -> list[int]:
        padded.append(len(part) * max(map(len, part)))
        return [len(row) for row in part]

    assert split_by_length(rows, run, 3) == [50, 3, 40, 4, 60, 5, 45]
    assert sum(padded) < len(rows) * 60 * 0.6
    assert len(padded) == 3


@pytest.mark.parametrize("split", [0, 4])
def test_the_job_of_the_peers_gives_the_reference(bundle: Bundle, split: int) -> None:
    texts, encoder = texts_of(bundle.folder, 64, seed=3), bundle.encoder("cpu", None)
    right = right_scores(bundle, encoder, texts)
    job = Job(encoder, bundle.folder / "ranker.onnx", bundle.folder, bundle.manifest.max_tokens, split)
    answers = job.answer(texts)
    assert all(right.is_right(n, ids) for n, ids in enumerate(answers))
    assert not any(right.is_right(n, answers[n - 1]) for n in range(len(texts)) if answers[n - 1] != answers[n])


def test_ids_with_line_separators_are_read_whole(tmp_path: Path) -> None:
    ids = ["a\u2028b", "c\u2029", "d"]
    items = [Item(key, "one\u0085two", "x", {}) for key in ids]
    write_items(items, tmp_path)
    assert read_ids(tmp_path) == ids


def test_every_peer_has_a_server_file_pins_and_settings_to_try() -> None:
    for target in targets([]):
        if target.is_ours:
            continue
        assert 2 <= len(target.tries) <= (4 if target.splits else 3)
        assert target.batching == target.tries[0]
        assert (Path(rounds.__file__).parent / "servers" / f"{target.name}_server.py").exists()
        pins = (Path(install.__file__).parent / "requirements" / f"{target.name}.txt").read_text().splitlines()
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
        assert {"onnxruntime", "tokenizers"} <= {line.split("==")[0] for line in pins}


def test_all_peers_run_the_same_onnxruntime_and_tokenizers() -> None:
    files = list((Path(install.__file__).parent / "requirements").glob("*.txt"))
    same = {
        line for file in files for line in file.read_text().split() if line.startswith(("onnxruntime=", "tokenizers="))
    }
    assert len(files) == 6
    assert len(same) == 2


def test_a_server_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match=r"no server triton; there are .*pytriton"):
        targets(["triton"])


def test_tries_measure_each_setting_of_a_peer() -> None:
    documented, split = targets(["mosec"])
    made = tried(["mosec"])
    assert [target.batching for target in made] == [*documented.tries, *split.tries]
    assert [target.splits for target in made] == [False] * len(documented.tries) + [True] * len(split.tries)
    with pytest.raises(ValueError, match="swiftrec: no settings to try"):
        tried(["swiftrec"])


def test_tries_say_which_setting_is_the_best() -> None:
    results = Results({}, BUNDLE_ID)
    rates = {"as documented": iter((400.0, 500.0, 450.0)), "split": iter((600.0, 590.0, 580.0, 570.0))}
    for target in tried(["mosec"]):
        found = figures(requests_per_s=next(rates[target.mode.partition(",")[0]]))
        results.add("int8", target, Entry(found, 1_000.0))
    rows = results.tries()
    assert [(row["mode"], row["tried"]) for row in rows if row["is_best"]] == [
        ("as documented", "16 within 10 ms"), ("split", "32 within 10 ms")
    ]  # fmt: skip
    assert "64 within 10 ms" in apart.tries(rows)


def test_a_right_answer_is_right_and_wrong_ones_are_seen() -> None:
    reference = scores()
    assert reference.is_right(0, IDS[:10])
    assert not reference.is_right(0, [*IDS[:9], "15"])
    assert not reference.is_right(0, IDS[:9])
    assert not reference.is_right(0, [*IDS[:9], IDS[8]])
    assert not reference.is_right(0, [*IDS[:9], "no such item"])
    assert not reference.is_right(0, list(reversed(IDS[:10])))


def test_items_of_equal_score_may_change_places() -> None:
    swapped = [*IDS[:8], IDS[9], IDS[8]]
    assert scores(gap=1e-7).is_right(0, swapped)
    assert not scores(gap=1e-3).is_right(0, swapped)
    assert scores(gap=1e-7).is_same(0, IDS[:10], swapped)
    assert not scores(gap=1e-3).is_same(0, IDS[:10], swapped)


def test_an_entry_of_a_list_that_failed_is_an_error_and_not_a_wrong_answer() -> None:
    target = Target("ours", "list", "grpc", messages.LIST, messages.pack_list, messages.unpack_list, texts=3)
    asked = Asked(target, scores(), TEXTS, TOKENS)
    good = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in IDS[:10]])
    bad = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in reversed(IDS[:10])])
    results = [pb.BatchRecommendResult(response=good), pb.BatchRecommendResult(error=pb.EntryError(code=8))]
    reply = pb.BatchRecommendResponse(results=[*results, pb.BatchRecommendResult(response=bad)]).SerializeToString()
    asked.through(lambda _request, answered: answered(OK, reply))(asked.requests[1], lambda _code, _reply: None)
    assert [answer.text for answer in asked.take()] == [3, 4, 5]
    assert (asked.answers, asked.errors, asked.wrong) == (2, 1, 1)
    assert asked.trouble.startswith("text 5 was answered with 9 8 7")


def test_mix_is_of_tokens_and_not_of_words() -> None:
    asked = Asked(fake("a"), scores(), TEXTS, [100, *[10] * (len(TEXTS) - 1)])
    mean = (100 + 10 * (len(TEXTS) - 1)) / len(TEXTS)
    assert asked.mix([Answer(0.0, 0, IDS)]) == pytest.approx(100 / mean)
    assert asked.mix([Answer(0.0, 1, IDS)]) == pytest.approx(10 / mean)


def test_a_reply_that_is_none_counts_as_an_error() -> None:
    asked = Asked(fake("a"), scores(), TEXTS, TOKENS)
    for code, reply in ((OK, b"no json"), (OK, b"7"), (UNKNOWN, b"")):

        def ask(
            _request: bytes, answered: Callable[[int, bytes], None], code: int = code, reply: bytes = reply
        ) -> None:
            answered(code, reply)

        asked.through(ask)(asked.requests[0], lambda _code, _reply: None)
    asked.take()
    assert (asked.answers, asked.errors) == (0, 3)


@pytest.mark.parametrize("is_raw", [True, False])
def test_inference_replies_are_read_raw_and_typed(is_raw: bool) -> None:
    output = oip.ModelInferResponse.InferOutputTensor(name="ITEM_ID", datatype="BYTES", shape=[1, 10])
    raw = b"".join(len(item).to_bytes(4, "little") + item.encode() for item in IDS[:10])
    if not is_raw:
        output.contents.bytes_contents.extend(item.encode() for item in IDS[:10])
    reply = oip.ModelInferResponse(outputs=[output], raw_output_contents=[raw] if is_raw else [])
    assert messages.unpack_infer(reply.SerializeToString()) == [IDS[:10]]
    sent = oip.ModelInferRequest.FromString(messages.pack_infer(["é"]))
    assert sent.raw_input_contents[0] == b"\x02\x00\x00\x00\xc3\xa9"


def test_an_answer_that_depends_on_its_mates_is_seen_and_no_garbage_is_collected_meanwhile() -> None:
    under_way: list[bytes] = []
    collects: set[bool] = set()

    def ask(request: bytes, answered: Callable[[int, bytes], None]) -> None:
        ids = IDS[:10] if not under_way else [*IDS[:9], "12"]
        collects.add(gc.isenabled())
        under_way.append(request)
        threading.Timer(0.005, finish, [answered, ids]).start()

    def finish(answered: Callable[[int, bytes], None], ids: list[str]) -> None:
        under_way.pop()
        answered(OK, json.dumps(ids).encode())

    running = SimpleNamespace(cpu_s=dict, check=lambda: None)
    found = measure(cast("family.Family", running), ask, Asked(fake("a"), scores(), TEXTS, TOKENS), PLAN)
    assert found.different_alone > 0
    assert collects == {False}
    assert gc.isenabled()


def test_rates_are_not_cut_by_the_ends_of_a_window() -> None:
    lumps = [moment for moment in np.arange(0.05, 4.0, 0.31) for _ in range(32)]
    assert rate_of(lumps, 4.0) == pytest.approx(32 / 0.31, rel=0.02)
    assert len(lumps) / 4.0 != pytest.approx(32 / 0.31, rel=0.007)
    assert rate_of([1.0, 1.0001, 1.0002], 4.0) == 0.75
    assert rate_of([], 4.0) == 0


def test_shares_are_of_the_floor_for_the_texts_that_were_answered() -> None:
    entry = Entry(figures(), floor_us=1_000.0)
    assert entry.share == pytest.approx(500 * 1_000 * 0.9 / 1e6)
    assert entry.cpu_share == pytest.approx(1_000 * 0.9 / 1_250)


def test_rows_have_what_the_report_reads() -> None:
    results = Results({}, BUNDLE_ID)
    for rate in (400.0, 500.0, 450.0):
        results.add("int8", fake("a"), Entry(figures(requests_per_s=rate), 1_000.0))
    (row,) = results.rows()
    assert {
        "target", "variant", "mode", "requests_per_s", "share_of_floor", "p50_ms_one_in_flight", "p99_ms_at_70",
        "errors", "wrong_answers", "alone_equals_batch", "spread",
    } <= row.keys()  # fmt: skip
    assert row["requests_per_s"] == 450
    assert row["spread"]["requests_per_s"] == [400, 500]


def test_a_figure_that_there_is_not_is_no_number(tmp_path: Path) -> None:
    results = Results({}, BUNDLE_ID)
    found = figures(p99_ms_at_70=None, late_ms=float("nan"), trouble="a request failed")
    results.add("int8", fake("a"), Entry(found, 1_000.0))
    results.save(tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["rounds"][0]["late_ms"] is None
    (row,) = results.rows()
    assert row["p99_ms_at_70"] is None
    assert "too few" in results.table()
    assert "int8, a, as documented: a request failed" in results.table()


def test_what_a_server_says_of_a_failure_is_kept() -> None:
    asked = Asked(fake("a"), scores(), TEXTS, TOKENS)
    asked.through(lambda _request, answered: answered(8, b"queue is full"))(asked.requests[0], lambda *_: None)
    asked.take()
    assert asked.trouble == "a request failed with status 8: queue is full"


def test_the_section_of_the_result_has_every_peer_and_why_one_is_missing() -> None:
    results = Results({}, BUNDLE_ID, skipped={"ray": "it does not install"}, died={"int8, b, split": "exit code 3"})
    results.add("int8", fake("a"), Entry(figures(), 1_000.0))
    section = results.section()
    assert section["req_per_s_core"] == {"a as documented": {"int8": 500.0}}
    assert section["skipped"] == {"ray": "it does not install", "int8, b, split": "exit code 3"}


def test_a_late_client_is_told_where_the_median_is_of_late_rounds() -> None:
    for late, is_told in (((0.1, 30.0, 0.2), False), ((0.1, 30.0, 20.0), True)):
        results = Results({}, BUNDLE_ID)
        for late_ms in late:
            results.add("int8", fake("a"), Entry(figures(late_ms=late_ms), 1_000.0))
        assert results.rows()[0]["note"] == ("the client sent up to 30.0 ms late at 70 %" if is_told else "")


def test_a_client_at_its_limit_is_told() -> None:
    results = Results({}, BUNDLE_ID)
    results.add("int8", fake("a"), Entry(figures(client_busy=0.97), 1_000.0))
    results.add("int8", fake("b"), Entry(figures(client_busy=0.5), 1_000.0))
    assert [bool(row["note"]) for row in results.rows()] == [True, False]
