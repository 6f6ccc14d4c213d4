"""The comparison with other servers: its job, right and wrong rankings, and rates."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip

from swiftrec.benchmarks.client import ResponseLog, send_all
from swiftrec.benchmarks.item_texts import bundle_texts
from swiftrec.benchmarks.peers import install, messages, process_tree, rounds, tables
from swiftrec.benchmarks.peers.ground_truth import right_rankings
from swiftrec.benchmarks.peers.measure import measure
from swiftrec.benchmarks.peers.results import PeerResults, RoundResult
from swiftrec.benchmarks.peers.servers.job import PeerJob, read_ids, split_by_length
from swiftrec.benchmarks.peers.session import PeerSession, TextRanking
from swiftrec.benchmarks.peers.targets import Target, select_targets, with_tries
from swiftrec.benchmarks.peers.transports import UNKNOWN
from swiftrec.benchmarks.statistics import OK, RequestRows, slope_per_s
from swiftrec.export.data.dataset import DatasetItem, write_items
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.benchmarks.peers import IDS, PLAN, TEXTS, TOKENS, fake, figures, scores


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
    job = PeerJob(encoder, bundle.folder / "ranker.onnx", bundle.folder, bundle.manifest.max_tokens, split)
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
    assert "64 within 10 ms" in str(tables.tries(rows))


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


def answered(session: PeerSession, *responses: tuple[int, bytes]) -> ResponseLog:
    """The log of a session whose requests end so, one after the other."""
    log, outcomes = session.log(len(responses)), iter(responses)
    send_all(lambda _request, on_response: on_response(*next(outcomes)), log)
    return log


def test_an_entry_of_a_batch_that_failed_is_an_error_and_not_a_wrong_answer() -> None:
    target = Target("ours", "batch", "grpc", messages.BATCH, messages.pack_batch, messages.unpack_batch, texts=3)
    session = PeerSession(target, scores(), TEXTS, TOKENS)
    good = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in IDS[:10]])
    bad = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in reversed(IDS[:10])])
    results = [pb.BatchRecommendResult(response=good), pb.BatchRecommendResult(error=pb.EntryError(code=8))]
    reply = pb.BatchRecommendResponse(results=[*results, pb.BatchRecommendResult(response=bad)]).SerializeToString()
    rankings, rows = session.check(answered(session, (8, b""), (OK, reply)))
    assert [ranking.text for ranking in rankings] == [0, 1, 2, 3, 4, 5]
    assert (session.rankings, session.errors, session.wrong) == (2, 4, 1)
    assert (rows.code.tolist(), rows.entries.tolist()) == ([8, OK], [0, 2])
    assert session.trouble.startswith("text 5 had the wrong ranking 9 8 7")


def test_a_servers_error_message_is_kept() -> None:
    session = PeerSession(fake("a"), scores(), TEXTS, TOKENS)
    session.check(answered(session, (8, b"queue is full")))
    assert session.trouble == "a request failed with status 8: queue is full"


def test_mix_is_of_tokens_and_not_of_words() -> None:
    session = PeerSession(fake("a"), scores(), TEXTS, [100, *[10] * (len(TEXTS) - 1)])
    mean = (100 + 10 * (len(TEXTS) - 1)) / len(TEXTS)
    assert session.mix([TextRanking(0, IDS)]) == pytest.approx(100 / mean)
    assert session.mix([TextRanking(1, IDS)]) == pytest.approx(10 / mean)


def test_a_response_that_cannot_be_read_counts_as_an_error() -> None:
    session = PeerSession(fake("a"), scores(), TEXTS, TOKENS)
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
    result = measure(
        cast("process_tree.ProcessTree", running), ask, PeerSession(fake("a"), scores(), TEXTS, TOKENS), PLAN
    )
    assert result.different_alone > 0
    assert collects == {False}
    assert gc.isenabled()


def test_rates_are_not_cut_by_the_ends_of_a_window() -> None:
    def rate(moments: Sequence[float]) -> float:
        times, ones = np.array(moments), np.ones(len(moments), np.int32)
        return slope_per_s(RequestRows(times, times, times, 0 * ones, ones, ones), 0.0, 4.0)

    bursts = [moment for moment in np.arange(0.05, 4.0, 0.31) for _ in range(32)]
    assert rate(bursts) == pytest.approx(32 / 0.31, rel=0.02)
    assert len(bursts) / 4.0 != pytest.approx(32 / 0.31, rel=0.007)
    assert rate([1.0, 1.0001, 1.0002]) == 0.75
    assert rate([]) == 0
