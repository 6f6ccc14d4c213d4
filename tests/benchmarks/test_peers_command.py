"""`swiftrec bench peers` with cheap servers: batching settings, what is kept of a run cut off, and what is written."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.peers import command as command
from swiftrec.benchmarks.peers import rounds
from swiftrec.benchmarks.peers.measure import RoundFigures
from swiftrec.benchmarks.peers.process_tree import PeerError
from swiftrec.benchmarks.peers.results import PeerResults, PeerSettingsResult, PeersResult, RoundResult
from swiftrec.benchmarks.peers.rounds import PeerSetup
from swiftrec.benchmarks.peers.targets import Batching, Target, select_targets, with_best, with_tries
from swiftrec.benchmarks.result_files import R
from swiftrec.server.models.bundle import Bundle
from tests.benchmarks.peers import BUNDLE_ID, fake, figures, scores, setup
from tests.benchmarks.results import folders


@pytest.mark.parametrize("error", [KeyboardInterrupt(), PeerError("the echo server does not start")])
def test_what_was_measured_is_kept_and_marked(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_setting: PeerSetup, _chosen: object, _repeats: int, results: PeerResults) -> Iterator[str]:
        results.add("int8", fake("good"), RoundResult(figures(), 1_000.0))
        yield "1/3 good"
        raise error

    monkeypatch.setattr(command, "load_bundle", lambda _: setup(scores()).bundle)
    monkeypatch.setattr(command, "prepare", lambda *_: setup(scores()))
    monkeypatch.setattr(command, "install_all", lambda *_: None)
    monkeypatch.setattr(command, "run_rounds", broken)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["peers", "--variant", "int8", "--results", str(tmp_path / "results")]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    (folder,) = folders(tmp_path / "results")
    written = result_files.load(folder, PeersResult)
    assert written.is_partial
    assert written.rows[0]["target"] == "good"
    assert "PARTIAL" in capsys.readouterr().out


@pytest.mark.parametrize("missing", [{}, {"ray": "does not install: ERROR"}])
def test_a_missing_peer_makes_the_result_partial(
    missing: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def install_all(_chosen: object, results: PeerResults) -> None:
        results.skipped.update(missing)

    def whole(_setting: PeerSetup, _chosen: object, _repeats: int, results: PeerResults) -> Iterator[str]:
        results.add("int8", fake("good"), RoundResult(figures(), 1_000.0))
        yield "1/1 good"

    monkeypatch.setattr(command, "load_bundle", lambda _: setup(scores()).bundle)
    monkeypatch.setattr(command, "prepare", lambda *_: setup(scores()))
    monkeypatch.setattr(command, "install_all", install_all)
    monkeypatch.setattr(command, "run_rounds", whole)
    before = signal.getsignal(signal.SIGTERM)
    try:
        code = main(["peers", "--variant", "int8", "--results", str(tmp_path / "results")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == (1 if missing else 0)
    (folder,) = folders(tmp_path / "results")
    written = result_files.load(folder, PeersResult)
    assert written.is_partial == bool(missing)
    assert written.skipped == missing
    assert written.rows[0]["target"] == "good"


def test_a_gpu_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "load_bundle", lambda _: setup(scores()).bundle)
    assert main(["peers", "--results", str(tmp_path / "file" / "results")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_missing_variant_is_a_sentence(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", "--bundle", str(bundle.folder), "--variant", "int3"]) == 2
    assert "no encoder variant 'int3': use one of" in capsys.readouterr().err


def test_a_missing_bundle_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["peers", "--bundle", str(tmp_path)]) == 2
    assert "run swiftrec export" in capsys.readouterr().err


BEST = Batching(16, 10)


MEASURED = "int8, mosec, as documented"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    given = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, given)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The command with everything real but servers, floor and client; `one` gives a target's figures."""
    monkeypatch.setattr(command, "load_bundle", lambda _: setup(scores()).bundle)
    monkeypatch.setattr(command, "prepare", lambda _settings, _bundle, variant: replace(SETUP, variant=variant))
    monkeypatch.setattr(rounds, "python_of", Path)
    monkeypatch.setattr(rounds, "client_costs", lambda *_: {"http": 20.0})
    monkeypatch.setattr(rounds, "floor_us", lambda _: 1_000.0)

    def run(item: Callable[[Target], RoundFigures], *flags: str) -> int:
        monkeypatch.setattr(rounds, "run_target", lambda _setup, target: item(target))
        return main(["peers", "--variant", "int8", "--repeats", "2", "--results", str(tmp_path / "results"), *flags])

    return run


SETUP: PeerSetup = setup(scores())


def written(tmp_path: Path, kind: type[R]) -> R:
    """The only result of this kind."""
    ((_, stored),) = result_files.load_all(tmp_path / "results", kind)
    return stored


def fast_with_16(target: Target) -> RoundFigures:
    return figures(requests_per_s=600.0 if target.batching == BEST else 500.0)


def test_every_setting_is_measured_each_round_and_the_best_is_printed_kept_and_joined(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[tuple[str, Batching | None]] = Counter()

    def one(target: Target) -> RoundFigures:
        seen[target.mode.partition(",")[0], target.batching] += 1
        return fast_with_16(target)

    assert peers(one, "--tries", "--targets", "mosec") == 0
    documented, split = select_targets(["mosec"])
    assert seen == {(mode.mode, batching): 2 for mode in (documented, split) for batching in mode.tries}
    lines = capsys.readouterr().out.splitlines()
    best = [line for line in lines if line.startswith("mosec") and line.endswith("yes") and "16 within 10 ms" in line]
    assert len(best) == 2, "one of each mode"
    stored = written(tmp_path, PeerSettingsResult)
    assert [(row["mode"], row["tried"]) for row in stored.rows if row["is_best"]] == [
        ("as documented", str(BEST)), ("split", str(BEST))
    ]  # fmt: skip
    assert {row["rounds"] for row in stored.rows} == {2}
    assert not stored.is_partial
    assert stored.bundle == BUNDLE_ID.fields()


def test_the_best_is_what_the_next_comparison_uses(peers: Callable[..., int], tmp_path: Path) -> None:
    assert peers(fast_with_16, "--tries", "--targets", "mosec") == 0
    used: set[tuple[str, Batching | None]] = set()

    def one(target: Target) -> RoundFigures:
        used.add((target.mode, target.batching))
        return figures()

    assert peers(one, "--targets", "mosec") == 0
    assert used == {("as documented", BEST), ("split", BEST)}
    rows = written(tmp_path, PeersResult).rows
    assert [row["batching"] for row in rows] == [{"batch": 16, "wait_ms": 10}] * 2
    used.clear()
    assert peers(one, "--targets", "mosec", "--variant", "fp32") == 0
    assert ("as documented", Batching(32, 10)) in used, "nothing is known of another encoder"


def test_a_setting_that_is_not_known_any_more_is_not_used() -> None:
    tries = [{"target": "mosec", "variant": "int8", "mode": "split", "tried": "7 within 3 ms", "is_best": True}]
    assert with_best(select_targets(["mosec", "swiftrec"]), tries, "int8") == select_targets(["mosec", "swiftrec"])


@pytest.mark.parametrize("spoilt", [{"errors": 1}, {"wrong_answers": 1}])
def test_a_setting_with_errors_or_wrong_answers_is_never_the_best(spoilt: dict[str, int]) -> None:
    results = PeerResults(1)
    for target in with_tries(["mosec"]):
        result = figures(requests_per_s=900.0, **spoilt) if target.batching == BEST else figures()
        results.add("int8", target, RoundResult(result, 1_000.0))
    assert str(BEST) not in [row["tried"] for row in results.tries() if row["is_best"]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_tries_that_are_cut_off_keep_what_they_have_marked_partial_and_name_no_best(
    error: type[BaseException], peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(target: Target) -> RoundFigures:
        if target.batching == Batching(32, 1):
            raise error("cut off")
        return fast_with_16(target)

    assert peers(one, "--tries", "--targets", "mosec") == 1
    stored = written(tmp_path, PeerSettingsResult)
    assert stored.is_partial
    assert [row["tried"] for row in stored.rows] == ["32 within 10 ms", "16 within 10 ms"]
    assert not any(row["is_best"] for row in stored.rows)
    assert "PARTIAL" in capsys.readouterr().out


def test_a_setting_with_which_a_server_dies_leaves_no_best_and_is_named(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(target: Target) -> RoundFigures:
        if target.mode == f"as documented, {Batching(32, 1)}":
            raise PeerError("ended with exit code 3")
        return fast_with_16(target)

    assert peers(one, "--tries", "--targets", "mosec") == 1
    assert f"{MEASURED}, 32 within 1 ms: ended with exit code 3" in capsys.readouterr().out
    rows = written(tmp_path, PeerSettingsResult).rows
    assert [row["mode"] for row in rows if row["is_best"]] == ["split"]


def test_there_is_nothing_to_try_of_this_server(peers: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert peers(fast_with_16, "--tries", "--targets", "swiftrec") == 2
    assert "swiftrec: no settings to try" in capsys.readouterr().err


def test_rounds_are_interleaved_with_the_floor_before_and_after_each(
    peers: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []
    floors = iter((100.0, 300.0, 500.0, 700.0, 900.0))

    def floor(_setting: PeerSetup) -> float:
        order.append("floor")
        return next(floors)

    def item(target: Target) -> RoundFigures:
        order.append(target.mode)
        return figures()

    monkeypatch.setattr(rounds, "floor_us", floor)
    assert peers(item, "--targets", "mosec") == 0
    assert order == ["floor", *(["as documented", "floor", "split", "floor"] * 2)]
    rows = written(tmp_path, PeersResult).rows
    assert [[item["floor_us"] for item in row["rounds"]] for row in rows] == [[200, 600], [400, 800]]


def test_the_floor_is_measured_again_after_a_server_that_failed(
    peers: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    floors = iter((100.0, 500.0, 700.0, 900.0))
    monkeypatch.setattr(rounds, "floor_us", lambda _: next(floors))

    def item(target: Target) -> RoundFigures:
        if not target.splits:
            raise PeerError("ended")
        return figures()

    assert peers(item, "--targets", "mosec") == 1
    (row,) = written(tmp_path, PeersResult).rows
    assert [item["floor_us"] for item in row["rounds"]] == [600, 800]


def test_a_comparison_that_is_cut_off_after_its_first_variant_keeps_that_one(
    peers: Callable[..., int], tmp_path: Path
) -> None:
    calls = Counter[str]()

    def one(target: Target) -> RoundFigures:
        calls[target.mode] += 1
        if calls[target.mode] > 2:
            raise KeyboardInterrupt
        return figures()

    assert peers(one, "--variant", "fp32") == 1
    stored = written(tmp_path, PeersResult)
    assert stored.is_partial
    assert {row["variant"] for row in stored.rows} == {"int8"}


def test_two_variants_are_in_one_table_and_one_result(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peers(lambda _: figures(), "--variant", "fp32") == 0
    rows = written(tmp_path, PeersResult).rows
    targets = {(target.name, target.mode) for target in select_targets([])}
    for variant in ("int8", "fp32"):
        assert {(row["target"], row["mode"]) for row in rows if row["variant"] == variant} == targets
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert all(lines.count([name, variant]) == 2 for name in ("mosec", "swiftrec") for variant in ("int8", "fp32"))


def test_a_precision_alone_stands_in_the_rows_as_the_encoder_that_it_means_and_is_measured_once(
    peers: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variants = dict.fromkeys(("static-fp32", "static-int8"), "")
    facts: Any = SimpleNamespace(**BUNDLE_ID.fields(), variants=variants, default={"cpu": "static-fp32"})
    monkeypatch.setattr(command, "load_bundle", lambda _: Bundle(tmp_path, facts))
    assert peers(lambda _: figures(), "--targets", "mosec", "--variant", "static-int8") == 0
    rows = written(tmp_path, PeersResult).rows
    assert [(row["variant"], row["mode"]) for row in rows] == [
        ("static-int8", "as documented"), ("static-int8", "split")
    ]  # fmt: skip


def test_a_client_at_its_limit_makes_the_comparison_fail_and_its_rows_are_marked(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(target: Target) -> RoundFigures:
        return figures(client_busy=0.97 if target.splits else 0.5)

    assert peers(one) == 1
    assert "the client is the bottleneck: mosec, split" in capsys.readouterr().err
    marked = {row["mode"] for row in written(tmp_path, PeersResult).rows if row["is_client_limited"]}
    assert marked == {"split"}


def test_a_setting_that_the_client_held_back_is_not_the_best_and_hides_no_better_one() -> None:
    results = PeerResults(1)
    for target in with_tries(["mosec"]):
        limit = {"client_busy": 0.97} if target.batching == BEST and not target.splits else {}
        results.add("int8", target, RoundResult(figures(requests_per_s=500.0 if limit else 400.0, **limit), 1_000.0))
    assert {row["mode"] for row in results.tries() if row["is_best"]} == {"split"}
