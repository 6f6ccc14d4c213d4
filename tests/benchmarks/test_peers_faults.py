"""A whole comparison, with servers that cost nothing: whatever fails takes nobody along."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swiftrec.benchmarks.peers import __main__ as command
from swiftrec.benchmarks.peers import family, install, rounds
from swiftrec.benchmarks.peers.family import PeerError
from swiftrec.benchmarks.peers.measure import Figures
from swiftrec.benchmarks.peers.reference import Scores
from swiftrec.benchmarks.peers.results import Entry, Results
from swiftrec.benchmarks.peers.rounds import Setting, run_rounds
from swiftrec.benchmarks.peers.targets import DOCUMENTED, SPLIT, Target
from swiftrec.benchmarks.suite import store
from swiftrec.server.models.bundle import Bundle
from tests.benchmarks.peers import BUNDLE_ID, CORE, DYING, ECHO, IDS, fake, figures, scores, setting


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Results]:
    commands = {"good": ECHO, "dying": DYING, "absent": [str(tmp_path / "nothing here")]}
    monkeypatch.setattr(rounds, "HOME", tmp_path)
    monkeypatch.setattr(rounds, "SERVER_CORE", CORE)
    monkeypatch.setattr(rounds, "load_cores", lambda: {CORE})
    monkeypatch.setattr(rounds, "python_of", lambda name: Path(name))
    monkeypatch.setattr(rounds, "client_costs", lambda *_: {"http": 20.0})
    monkeypatch.setattr(rounds, "floor_us", lambda _: 100.0)
    monkeypatch.setattr(rounds, "peer_command", lambda target: commands[target.name])

    def run(*chosen: Target, right: Scores | None = None, repeats: int = 2) -> Results:
        results = Results({}, BUNDLE_ID)
        rounds.install_all(chosen, results)
        list(run_rounds(setting(right or scores()), chosen, repeats, results))
        return results

    return run


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


@pytest.mark.parametrize("missing", [{}, {"ray": "does not install: ERROR"}])
def test_a_peer_that_is_missing_makes_the_run_partial_and_what_was_measured_joins(
    missing: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def install_all(_chosen: object, results: Results) -> None:
        results.skipped.update(missing)

    def whole(_setting: Setting, _chosen: object, _repeats: int, results: Results) -> Iterator[str]:
        results.add("int8", fake("good"), Entry(figures(), 1_000.0))
        yield "1/1 good"

    monkeypatch.setattr(command, "load_bundle", lambda _: setting(scores()).bundle)
    monkeypatch.setattr(command, "prepare", lambda *_: setting(scores()))
    monkeypatch.setattr(command, "install_all", install_all)
    monkeypatch.setattr(command, "run_rounds", whole)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = command.main(["--variant", "int8", "--out", str(tmp_path / "out.json")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == (1 if missing else 0)
    assert json.loads((tmp_path / "out.json").read_text())["partial"] == bool(missing)
    (folder,) = store.folders(tmp_path / "results")
    assert store.load(folder).peers.skipped == missing
    assert store.load(folder).peers.rows[0]["target"] == "good"


def test_a_gpu_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--device", "cuda"]) == 2
    assert "DEVICE=cuda" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert command.finish(Results({}, BUNDLE_ID, is_partial=False), tmp_path / "file" / "out.json") == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_variant_that_is_not_there_is_a_sentence(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bundle", str(bundle.folder), "--variant", "int3"]) == 2
    assert "no encoder variant 'int3'; it has" in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command.main(["--bundle", str(tmp_path)]) == 2
    assert "run swiftrec export" in capsys.readouterr().err
