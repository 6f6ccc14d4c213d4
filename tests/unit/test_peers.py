"""The comparison with other servers: right answers are told from wrong ones, and whatever fails takes nobody along."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as oip

from benchmarks import workload
from benchmarks.peers import __main__ as command
from benchmarks.peers import family, install, messages, rounds
from benchmarks.peers.asked import Asked
from benchmarks.peers.family import PeerError, StartError, descendants, free_ports, launched
from benchmarks.peers.measure import Figures, Plan, measure, rate_of
from benchmarks.peers.reference import Scores, right_scores
from benchmarks.peers.results import Entry, Results
from benchmarks.peers.rounds import Setting, run_rounds
from benchmarks.peers.servers.job import Job, split_by_length
from benchmarks.peers.targets import DOCUMENTED, SPLIT, Batching, Target, targets, tried
from benchmarks.peers.wire import OK, UNAVAILABLE, UNKNOWN, Wire, connected
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import recommender_pb2 as pb

CORE = min(os.sched_getaffinity(0))
IDS = [str(n) for n in range(20)]
TEXTS = [f"text {n} " + "word " * (n % 7) for n in range(64)]
PLAN = Plan(seconds=0.3, warmup_s=0.1, in_flight=4)
ECHO = [sys.executable, "-m", "benchmarks.peers.servers.http_echo"]
# Answers like the echo server, but dies with exit code 3 on its hundredth request.
DYING = [sys.executable, "-c", """
import asyncio, os
from benchmarks.peers.servers import http_echo
seen = 0
class Dying(http_echo.Echo):
    def data_received(self, data):
        global seen
        seen += 1
        os._exit(3) if seen == 100 else super().data_received(data)
http_echo.Echo = Dying
asyncio.run(http_echo.main())
"""]  # fmt: skip
# Ignores SIGTERM and has a grandchild that left its session, whose parent is gone.
STUBBORN = [sys.executable, "-c", """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: sum(range(1000))
    os._exit(0)
os.wait()
print("ready", flush=True)
time.sleep(600)
"""]  # fmt: skip


def scores(best: Sequence[str] = IDS[:10], gap: float = 0.05) -> Scores:
    """For every text the same ranking: `best`, then the others."""
    order = [*best, *(item for item in IDS if item not in best)]
    row = [1.0 - gap * order.index(item) for item in IDS]
    return Scores.of(np.tile(np.asarray(row, dtype=np.float32), (len(TEXTS), 1)), IDS)


def fake(name: str, mode: str = DOCUMENTED, wire: Wire = "http") -> Target:
    def pack(texts: Sequence[str]) -> bytes:
        return messages.post("/", json.dumps(texts).encode())

    return Target(name, mode, wire, "/", pack, messages.json_ids, batching=Batching(8, 1))


def figures(**changes: Any) -> Figures:  # noqa: ANN401 (fields of several types)
    values: dict[str, Any] = dict.fromkeys(Figures.__dataclass_fields__, 0) | {
        "requests_per_s": 500.0, "server_us": 1_250.0, "mix": 0.9, "p50_ms_one_in_flight": 2.0, "p99_ms_at_70": 9.0,
    }  # fmt: skip
    return Figures(**(values | changes))


@contextmanager
def http_server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that gives one connection to `answer`, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def ask_once(wire: Wire, port: int, request: bytes = b"GET / HTTP/1.1\r\n\r\n") -> tuple[int, bytes]:
    found: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    with connected(wire, port, "/a.B/C", CORE) as ask:
        ask(request, lambda code, reply: found.put((code, reply)))
        answer = found.get(timeout=20)
    assert found.empty()
    return answer


# The job


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
    texts, encoder = workload.texts(bundle.folder, 64, seed=3), bundle.encoder("cpu", None)
    right = right_scores(bundle, encoder, texts)
    job = Job(encoder, bundle.folder / "ranker.onnx", bundle.folder, bundle.manifest.max_tokens, split)
    answers = job.answer(texts)
    assert all(right.is_right(n, ids) for n, ids in enumerate(answers))
    assert not any(right.is_right(n, answers[n - 1]) for n in range(len(texts)) if answers[n - 1] != answers[n])


def test_every_peer_has_a_server_file_pins_and_settings_to_try() -> None:
    for target in targets([]):
        if target.is_ours:
            continue
        assert 2 <= len(target.tries) <= 3
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
    assert [target.batching for target in tried(["mosec"])] == list(targets(["mosec"])[0].tries)
    assert tried(["swiftrec"]) == []


# Answers


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
    asked = Asked(target, scores(), TEXTS)
    good = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in IDS[:10]])
    bad = pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in reversed(IDS[:10])])
    results = [pb.BatchRecommendResult(response=good), pb.BatchRecommendResult(error=pb.EntryError(code=8))]
    reply = pb.BatchRecommendResponse(results=[*results, pb.BatchRecommendResult(response=bad)]).SerializeToString()
    asked.through(lambda _request, answered: answered(OK, reply))(asked.requests[1], lambda _code: None)
    assert [answer.text for answer in asked.take()] == [3, 4, 5]
    assert (asked.answers, asked.errors, asked.wrong) == (2, 1, 1)


def test_a_reply_that_is_none_counts_as_an_error() -> None:
    asked = Asked(fake("a"), scores(), TEXTS)
    for code, reply in ((OK, b"no json"), (OK, b"7"), (UNKNOWN, b"")):
        asked.through(lambda _request, answered, c=code, r=reply: answered(c, r))(asked.requests[0], lambda _code: None)  # type: ignore[misc]
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


# The wire


def test_an_http_reply_in_pieces_is_put_together() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1_000)
        for piece in (b"HTTP/1.1 200 OK\r\ncontent-", b"LENGTH: 5\r\n\r\nhe", b"llo"):
            connection.sendall(piece)
        connection.recv(1_000)

    with http_server(answer) as port:
        assert ask_once("http", port) == (OK, b"hello")


@pytest.mark.parametrize(
    ("reply", "code"),
    [(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n", UNKNOWN), (b"", UNAVAILABLE), (b"HTTP/1.1 200", UNAVAILABLE)],
)
def test_an_http_server_that_refuses_or_hangs_up_gives_a_code(reply: bytes, code: int) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1_000)
        connection.sendall(reply)

    with http_server(answer) as port:
        assert ask_once("http", port)[0] == code


@pytest.mark.parametrize("wire", ["http", "grpc", "stream"])
def test_nobody_there_gives_a_code(wire: Wire) -> None:
    assert ask_once(wire, free_ports(1)[0])[0] == UNAVAILABLE


# Processes


def test_all_processes_of_a_server_are_counted_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "_STOP_S", 0.2)
    log = tmp_path / "log"
    with launched(STUBBORN, dict(os.environ), CORE, log) as running:
        running.wait_until(lambda: "ready" in log.read_text(), 20)
        members = running.members()
        before = sum(running.cpu_s().values())
        running.wait_until(lambda: sum(running.cpu_s().values()) > before + 0.05, 20)
    assert len(members) == 2
    assert members.isdisjoint(descendants(os.getpid()))
    assert not any(Path(f"/proc/{pid}").exists() for pid in members)


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    talks = [sys.executable, "-c", "raise SystemExit('glibc 2.38 is needed')"]
    with (
        launched(talks, dict(os.environ), CORE, tmp_path / "log") as running,
        pytest.raises(StartError, match=r"exit code 1: glibc 2\.38 is needed"),
    ):
        running.wait_until(lambda: False, 20)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    with launched([sys.executable, "-c", "input()"], dict(os.environ), CORE, tmp_path / "log") as running:
        running.process.send_signal(signal.SIGSTOP)
        with pytest.raises(StartError, match=r"no right answer within 0\.3 s"):
            running.wait_until(lambda: False, 0.3)
        running.process.send_signal(signal.SIGCONT)


# A whole run, with servers that cost nothing


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Results]:
    commands = {"good": ECHO, "dying": DYING, "absent": [str(tmp_path / "nothing here")]}
    monkeypatch.setattr(rounds, "HOME", tmp_path)
    monkeypatch.setattr(rounds, "SERVER_CORE", CORE)
    monkeypatch.setattr(rounds, "LOAD_CORE", CORE)
    monkeypatch.setattr(rounds, "python_of", lambda name: Path(name))
    monkeypatch.setattr(rounds, "client_costs", lambda *_: {"http": 20.0})
    monkeypatch.setattr(rounds, "floor_us", lambda _: 100.0)
    monkeypatch.setattr(rounds, "peer_command", lambda target: commands[target.name])

    def run(*chosen: Target, right: Scores | None = None, repeats: int = 2) -> Results:
        results = Results({})
        rounds.install_all(chosen, results)
        list(run_rounds(setting(right or scores()), chosen, repeats, results))
        return results

    return run


def setting(right: Scores) -> Setting:
    manifest = SimpleNamespace(max_tokens=128)
    bundle: Any = SimpleNamespace(folder=Path("nowhere"), manifest=manifest, encoder=lambda *_: Path("no.onnx"))
    return Setting(bundle, "int8", TEXTS, right, PLAN, floor_texts=58, best_batch=8)


def test_a_server_is_measured_in_every_round(run: Callable[..., Results]) -> None:
    results = run(fake("good"), fake("good", SPLIT))
    rows = results.rows()
    assert [(row["target"], row["mode"]) for row in rows] == [("good", DOCUMENTED), ("good", SPLIT)]
    for row in rows:
        assert len(row["rounds"]) == 2
        assert row["requests_per_s"] > 100
        assert (row["errors"], row["wrong_answers"], row["alone_equals_batch"]) == (0, 0, True)
        assert row["p50_ms_one_in_flight"] > 0
        low, high = row["spread"]["share_of_floor_by_cpu"]
        assert low <= row["share_of_floor_by_cpu"] <= high


def test_wrong_answers_are_counted_and_change_no_other_figure(run: Callable[..., Results]) -> None:
    (row,) = run(fake("good"), right=scores(best=IDS[10:]), repeats=1).rows()
    assert row["wrong_answers"] == row["rounds"][0]["answers"] > 0
    assert row["errors"] == 0


def test_an_answer_that_depends_on_its_mates_is_seen() -> None:
    under_way: list[bytes] = []

    def ask(request: bytes, answered: Callable[[int, bytes], None]) -> None:
        ids = IDS[:10] if not under_way else [*IDS[:9], "12"]
        under_way.append(request)
        threading.Timer(0.005, finish, [answered, ids]).start()

    def finish(answered: Callable[[int, bytes], None], ids: list[str]) -> None:
        under_way.pop()
        answered(OK, json.dumps(ids).encode())

    running = SimpleNamespace(cpu_s=dict, check=lambda: None)
    found = measure(cast("family.Family", running), ask, Asked(fake("a"), scores(), TEXTS), PLAN)
    assert found.different_alone > 0


def test_a_server_that_cannot_start_says_why_and_the_others_go_on(run: Callable[..., Results], tmp_path: Path) -> None:
    results = run(fake("absent"), fake("good"))
    assert results.skipped == {"absent": f"{tmp_path / 'nothing here'}: No such file or directory"}
    assert [row["target"] for row in results.rows()] == ["good"]
    assert "absent: not measured: " in results.table()
    assert not results.died


def test_a_server_that_dies_is_told_and_the_others_go_on(run: Callable[..., Results]) -> None:
    results = run(fake("dying"), fake("good"))
    assert list(results.died) == ["int8, dying, as documented"]
    assert "exit code 3" in results.died["int8, dying, as documented"]
    assert [len(row["rounds"]) for row in results.rows()] == [2]


def test_a_peer_that_does_not_install_is_skipped(run: Callable[..., Results], monkeypatch: pytest.MonkeyPatch) -> None:
    def python_of(name: str) -> Path:
        raise install.InstallError(f"does not install: ERROR: no matching distribution for {name}")

    monkeypatch.setattr(rounds, "python_of", python_of)
    assert run(fake("good")).skipped["good"].startswith("does not install: ERROR")


def test_an_interrupted_run_ends_its_server(run: Callable[..., Results], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupt(running: family.Family, *_: object) -> Figures:
        started.append(running.process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(fake("good"))
    assert not Path(f"/proc/{started[0]}").exists()


# The command and what it writes


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PeerError("the echo server does not start")])
def test_what_was_measured_is_kept_and_marked(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_setting: Setting, _chosen: object, _repeats: int, results: Results) -> Iterator[str]:
        results.add("int8", fake("good"), Entry(figures(), 1_000.0))
        yield "1/3 good"
        raise error

    monkeypatch.setattr(command, "load_bundle", lambda _: setting(scores()).bundle)
    monkeypatch.setattr(command, "prepare", lambda *_: setting(scores()))
    monkeypatch.setattr(command, "install_all", lambda *_: None)
    monkeypatch.setattr(command, "run_rounds", broken)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main(["--variant", "int8", "--out", str(tmp_path / "out.json")]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["partial"] is True
    assert written["rows"][0]["target"] == "good"
    assert "PARTIAL" in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert command.finish(Results({}, is_partial=False), tmp_path / "file" / "out.json") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_variant_that_is_not_there_is_a_sentence(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(bundle.folder), "--variant", "int3"]) == 2
    assert "no encoder variant 'int3'; it has" in capsys.readouterr().err


def test_rates_are_not_cut_by_the_ends_of_a_window() -> None:
    lumps = [moment for moment in np.arange(0.05, 4.0, 0.31) for _ in range(32)]
    assert rate_of(lumps, 4.0) == pytest.approx(32 / 0.31, rel=0.02)
    assert len(lumps) / 4.0 != pytest.approx(32 / 0.31, rel=0.007)
    assert rate_of([1.0, 1.0001, 1.0002], 4.0) == 0.75
    assert rate_of([], 4.0) == 0


def test_a_bundle_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["--bundle", str(tmp_path)]) == 2
    assert "run make export" in capsys.readouterr().err


def test_shares_are_of_the_floor_for_the_texts_that_were_answered() -> None:
    entry = Entry(figures(), floor_us=1_000.0)
    assert entry.share == pytest.approx(500 * 1_000 * 0.9 / 1e6)
    assert entry.cpu_share == pytest.approx(1_000 * 0.9 / 1_250)


def test_rows_have_what_the_report_reads() -> None:
    results = Results({})
    for rate in (400.0, 500.0, 450.0):
        results.add("int8", fake("a"), Entry(figures(requests_per_s=rate), 1_000.0))
    (row,) = results.rows()
    assert {
        "target", "variant", "mode", "requests_per_s", "share_of_floor", "p50_ms_one_in_flight", "p99_ms_at_70",
        "errors", "wrong_answers", "alone_equals_batch", "spread",
    } <= row.keys()  # fmt: skip
    assert row["requests_per_s"] == 450
    assert row["spread"]["requests_per_s"] == [400, 500]


def test_a_client_at_its_limit_is_told() -> None:
    results = Results({})
    results.add("int8", fake("a"), Entry(figures(client_busy=0.97), 1_000.0))
    results.add("int8", fake("b"), Entry(figures(client_busy=0.5), 1_000.0))
    assert [bool(row["note"]) for row in results.rows()] == [True, False]
