"""The comparison with other servers: right and wrong rankings, rows, rounds and notes."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip

from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.client import ResponseLog, send_all
from swiftrec.benchmarks.peers import install, messages, process_tree, rounds, tables
from swiftrec.benchmarks.peers.ground_truth import right_rankings
from swiftrec.benchmarks.peers.measure import measure, p99_or_none
from swiftrec.benchmarks.peers.results import PeerResults, RoundResult
from swiftrec.benchmarks.peers.servers.job import Job, read_ids, split_by_length
from swiftrec.benchmarks.peers.session import Ranking, Session
from swiftrec.benchmarks.peers.targets import OURS, UNARY, Target, select_targets, with_tries
from swiftrec.benchmarks.peers.transports import UNKNOWN
from swiftrec.benchmarks.statistics import MIN_P99_RESPONSES, OK, Rows, slope_per_s
from swiftrec.benchmarks.suite import readme
from swiftrec.benchmarks.suite.summary import newest_results
from swiftrec.benchmarks.suite.targets import PeerComparison
from swiftrec.benchmarks.workload import bundle_texts
from swiftrec.export.data.dataset import DatasetItem, write_items
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.benchmarks.peers import IDS, PLAN, TEXTS, TOKENS, fake, figures, scores
from tests.benchmarks.results import peers_result, result, save


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
    texts, encoder = bundle_texts(bundle.folder, 64, seed=3), bundle.encoder("cpu", None)
    right = right_rankings(bundle, encoder, texts)
    job = Job(encoder, bundle.folder / "ranker.onnx", bundle.folder, bundle.manifest.max_tokens, split)
    answers = job.answer(texts)
    assert all(right.is_right(n, ids) for n, ids in enumerate(answers))
    assert not any(right.is_right(n, answers[n - 1]) for n in range(len(texts)) if answers[n - 1] != answers[n])


def test_ids_with_line_separators_are_read_whole(tmp_path: Path) -> None:
    ids = ["a\u2028b", "c\u2029", "d"]
    items = [DatasetItem(key, "one\u0085two", "x", {}) for key in ids]
    write_items(items, tmp_path)
    assert read_ids(tmp_path) == ids


def test_every_peer_has_a_server_file_pins_and_settings_to_try() -> None:
    for target in select_targets([]):
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
    with pytest.raises(ValueError, match=r"--targets: no server triton: use .*pytriton"):
        select_targets(["triton"])


def test_tries_measure_each_setting_of_a_peer() -> None:
    documented, split = select_targets(["mosec"])
    made = with_tries(["mosec"])
    assert [target.batching for target in made] == [*documented.tries, *split.tries]
    assert [target.splits for target in made] == [False] * len(documented.tries) + [True] * len(split.tries)
    with pytest.raises(ValueError, match="swiftrec: no settings to try"):
        with_tries(["swiftrec"])


def test_tries_say_which_setting_is_the_best() -> None:
    results = PeerResults(1)
    rates = {"as documented": iter((400.0, 500.0, 450.0)), "split": iter((600.0, 590.0, 580.0, 570.0))}
    for target in with_tries(["mosec"]):
        result = figures(requests_per_s=next(rates[target.mode.partition(",")[0]]))
        results.add("int8", target, RoundResult(result, 1_000.0))
    rows = results.tries()
    assert [(row["mode"], row["tried"]) for row in rows if row["is_best"]] == [
        ("as documented", "16 within 10 ms"), ("split", "32 within 10 ms")
    ]  # fmt: skip
    assert "64 within 10 ms" in tables.tries(rows)


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


def answered(session: Session, *responses: tuple[int, bytes]) -> ResponseLog:
    """The log of a session whose requests end so, one after the other."""
    log, outcomes = session.log(len(responses)), iter(responses)
    send_all(lambda _request, on_response: on_response(*next(outcomes)), log)
    return log


def test_an_entry_of_a_batch_that_failed_is_an_error_and_not_a_wrong_answer() -> None:
    target = Target("ours", "batch", "grpc", messages.BATCH, messages.pack_batch, messages.unpack_batch, texts=3)
    session = Session(target, scores(), TEXTS, TOKENS)
    good = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in IDS[:10]])
    bad = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in reversed(IDS[:10])])
    results = [pb.BatchRecommendResult(response=good), pb.BatchRecommendResult(error=pb.EntryError(code=8))]
    reply = pb.BatchRecommendResponse(results=[*results, pb.BatchRecommendResult(response=bad)]).SerializeToString()
    rankings, rows = session.check(answered(session, (8, b""), (OK, reply)))
    assert [ranking.text for ranking in rankings] == [0, 1, 2, 3, 4, 5]
    assert (session.rankings, session.errors, session.wrong) == (2, 4, 1)
    assert (rows.code.tolist(), rows.entries.tolist()) == ([8, OK], [0, 2])
    assert session.trouble.startswith("text 5 had the wrong ranking 9 8 7")


def test_mix_is_of_tokens_and_not_of_words() -> None:
    session = Session(fake("a"), scores(), TEXTS, [100, *[10] * (len(TEXTS) - 1)])
    mean = (100 + 10 * (len(TEXTS) - 1)) / len(TEXTS)
    assert session.mix([Ranking(0, IDS)]) == pytest.approx(100 / mean)
    assert session.mix([Ranking(1, IDS)]) == pytest.approx(10 / mean)


def test_a_response_that_cannot_be_read_counts_as_an_error() -> None:
    session = Session(fake("a"), scores(), TEXTS, TOKENS)
    _, rows = session.check(answered(session, (OK, b"no json"), (OK, b"7"), (UNKNOWN, b"")))
    assert (session.rankings, session.errors) == (0, 3)
    assert rows.code.tolist() == [UNKNOWN] * 3


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

    running = SimpleNamespace(cpu_s=float, check=lambda: None)
    result = measure(cast("process_tree.ProcessTree", running), ask, Session(fake("a"), scores(), TEXTS, TOKENS), PLAN)
    assert result.different_alone > 0
    assert collects == {False}
    assert gc.isenabled()


def test_rates_are_not_cut_by_the_ends_of_a_window() -> None:
    def rate(moments: Sequence[float]) -> float:
        times, ones = np.array(moments), np.ones(len(moments), np.int32)
        return slope_per_s(Rows(times, times, times, 0 * ones, ones, ones), 0.0, 4.0)

    bursts = [moment for moment in np.arange(0.05, 4.0, 0.31) for _ in range(32)]
    assert rate(bursts) == pytest.approx(32 / 0.31, rel=0.02)
    assert len(bursts) / 4.0 != pytest.approx(32 / 0.31, rel=0.007)
    assert rate([1.0, 1.0001, 1.0002]) == 0.75
    assert rate([]) == 0


def test_shares_are_of_the_floor_for_the_texts_that_were_answered() -> None:
    entry = RoundResult(figures(), floor_us=1_000.0)
    assert entry.share == pytest.approx(500 * 1_000 * 0.9 / 1e6)
    assert entry.cpu_share == pytest.approx(1_000 * 0.9 / 1_250)


def test_rows_have_what_the_report_reads() -> None:
    results = PeerResults(1)
    for rate in (400.0, 500.0, 450.0):
        results.add("int8", fake("a"), RoundResult(figures(requests_per_s=rate), 1_000.0))
    (row,) = results.rows()
    assert {
        "target", "variant", "mode", "requests_per_s", "share_of_floor", "p50_ms_one_in_flight", "p99_ms_at_70",
        "errors", "wrong_answers", "alone_equals_batch", "spread",
    } <= row.keys()  # fmt: skip
    assert row["requests_per_s"] == 450
    assert row["spread"]["requests_per_s"] == [400, 500]


def test_a_figure_that_was_not_measured_is_null() -> None:
    results = PeerResults(1)
    missing = figures(p99_ms_at_70=None, late_ms=float("nan"), trouble="a request failed")
    results.add("int8", fake("a"), RoundResult(missing, 1_000.0))
    (row,) = results.rows()
    assert row["rounds"][0]["late_ms"] is None
    assert row["p99_ms_at_70"] is None
    assert "too few" in results.table()
    assert "int8, a, as documented: a request failed" in results.table()


def test_a_servers_error_message_is_kept() -> None:
    session = Session(fake("a"), scores(), TEXTS, TOKENS)
    session.check(answered(session, (8, b"queue is full")))
    assert session.trouble == "a request failed with status 8: queue is full"


def test_a_late_client_is_noted_if_the_median_of_the_rounds_is_late() -> None:
    for late, is_noted in (((0.1, 30.0, 0.2), False), ((0.1, 30.0, 20.0), True)):
        results = PeerResults(1)
        for late_ms in late:
            results.add("int8", fake("a"), RoundResult(figures(late_ms=late_ms), 1_000.0))
        assert results.rows()[0]["note"] == ("the client sent up to 30.0 ms late at 70 %" if is_noted else "")


def test_a_client_at_its_limit_is_noted() -> None:
    results = PeerResults(1)
    results.add("int8", fake("a"), RoundResult(figures(client_busy=0.97), 1_000.0))
    results.add("int8", fake("b"), RoundResult(figures(client_busy=0.5), 1_000.0))
    assert [bool(row["note"]) for row in results.rows()] == [True, False]


def row(rounds: Sequence[Sequence[float]], name: str = "a", mode: str = UNARY) -> dict[str, Any]:
    """Of a server with these latencies at 70 %, round by round."""
    results = PeerResults(1)
    for latencies in rounds:
        result = np.array(latencies)
        results.add(
            "int8", fake(name, mode), RoundResult(figures(p99_ms_at_70=p99_or_none(result), latency_ms=result), 1_000.0)
        )
    return results.rows()[0]


def test_rounds_with_answers_enough_have_a_p99_each() -> None:
    result = row([[value] * MIN_P99_RESPONSES for value in (3.0, 5.0, 4.0)])
    assert result["p99_ms_at_70"] == 4.0
    assert result["spread"]["p99_ms_at_70"] == [3.0, 5.0]


@pytest.mark.parametrize("sizes", [(100, 100, 100), (MIN_P99_RESPONSES, MIN_P99_RESPONSES, MIN_P99_RESPONSES - 1)])
def test_one_round_with_too_few_answers_makes_the_p99_that_of_all_together(sizes: Sequence[int]) -> None:
    latencies = [[10.0 * number] * size for number, size in enumerate(sizes, 1)]
    result = row(latencies)
    assert result["p99_ms_at_70"] == pytest.approx(np.percentile(np.concatenate(latencies), 99))
    assert result["rounds"][2]["p99_ms_at_70"] is None
    assert "p99_ms_at_70" not in result["spread"]


def test_too_few_answers_in_all_rounds_are_no_p99() -> None:
    assert row([[1.0] * 99] * 3)["p99_ms_at_70"] is None


def test_latencies_are_not_written_into_the_result() -> None:
    results = PeerResults(1)
    results.add("int8", fake("a"), RoundResult(figures(latency_ms=np.ones(400)), 1_000.0))
    assert "latency_ms" not in results.rows()[0]["rounds"][0]


def test_a_window_with_too_few_answers_has_latencies_and_no_p99() -> None:
    """At most 800 a second come from a server that takes 5 ms, of which the window has 168."""

    def ask(_request: bytes, answered: Callable[[int, bytes], None]) -> None:
        threading.Timer(0.005, answered, [OK, json.dumps(IDS[:10]).encode()]).start()

    running = SimpleNamespace(cpu_s=float, check=lambda: None)
    result = measure(cast("process_tree.ProcessTree", running), ask, Session(fake("a"), scores(), TEXTS, TOKENS), PLAN)
    assert result.p99_ms_at_70 is None
    assert 0 < len(result.latency_ms) < MIN_P99_RESPONSES


def test_the_promise_is_judged_by_the_p99_of_all_rounds_where_one_has_none() -> None:
    ours, theirs = row([[2.0] * 200] * 3, OURS), row([[4.0] * MIN_P99_RESPONSES] * 3, "mosec")
    rows = {(item["target"], item["mode"]): item for item in (ours, theirs)}
    result = {promise.name: promise for promise in PeerComparison("int8", rows, {}, "a").promises(static=False)}
    assert result[f"int8, p99 at 70 % load: {UNARY} / mosec {UNARY}"].values == [0.5]
    assert len(result[f"int8, p50 with one in flight: {UNARY} / mosec {UNARY}"].values) == 3


def cut(rounds: int = 2, requested: int = 3) -> PeerResults:
    """A comparison in which server b died: "a" was measured as often as requested."""
    results = PeerResults(requested, died={"int8, b, as documented": "exit code 3"})
    for name, number in (("a", requested), ("b", rounds)):
        for _ in range(number):
            results.add("int8", fake(name), RoundResult(figures(), 1_000.0))
    return results


def test_a_row_with_fewer_rounds_than_requested_is_marked_wherever_it_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = peers_result(cut().rows(), skipped=cut().why_skipped(), is_partial=True, reason="b died")
    folder = save(tmp_path, "2026-01-01", result(), peers)
    assert main(["summary", "--json", "--results", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["peers_partial"] == {"int8, b, as documented": "2 of 3 rounds"}
    assert "the comparison with other servers is not complete: partial: b died" in printed.err
    table = readme.tables(readme.make_reference(newest_results(tmp_path, folder)))
    assert [line.split("|")[-2] for line in table.splitlines() if line.startswith(("| a as", "| b as"))] == [
        " 0 ", " 0, 2 of 3 rounds "
    ]  # fmt: skip
    assert "Medians of 3 rounds (range), of fewer if the last column says so." in table
    assert "int8, b, as documented: 2 of 3 rounds" in cut().table()


def test_a_run_that_ended_in_its_second_round_marks_every_row() -> None:
    assert set(tables.few_rounds(cut(rounds=1, requested=1).rows())) == set()
    results = cut(rounds=2, requested=2)
    results.repeats = 3
    assert set(tables.few_rounds(results.rows()).values()) == {"2 of 3 rounds"}
