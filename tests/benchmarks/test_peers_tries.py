"""`--tries`: every setting of a peer is measured, the best is shown, kept and used from then on."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.peers import __main__ as command
from swiftrec.benchmarks.peers import rounds
from swiftrec.benchmarks.peers.family import PeerError
from swiftrec.benchmarks.peers.measure import Figures
from swiftrec.benchmarks.peers.results import Entry, Results
from swiftrec.benchmarks.peers.rounds import Setting
from swiftrec.benchmarks.peers.targets import Batching, Target, targets, tried, tuned
from swiftrec.benchmarks.suite import joined, store
from swiftrec.server.models.bundle import Bundle
from tests.benchmarks.peers import BUNDLE_ID, figures, scores, setting
from tests.benchmarks.results import result

BEST = Batching(16, 10)
MEASURED = "int8, mosec, as documented"
MOSEC = targets(["mosec"])[0]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    given = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, given)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The command with everything real but servers, floor and client; `one` gives a target's figures."""
    monkeypatch.setattr(command, "load_bundle", lambda _: setting(scores()).bundle)
    monkeypatch.setattr(command, "prepare", lambda _settings, _bundle, variant: replace(SETTING, variant=variant))
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(rounds, "python_of", Path)
    monkeypatch.setattr(rounds, "client_costs", lambda *_: {"http": 20.0})
    monkeypatch.setattr(rounds, "floor_us", lambda _: 1_000.0)

    def run(one: Callable[[Target], Figures], *flags: str) -> int:
        monkeypatch.setattr(rounds, "run_one", lambda _setting, target: one(target))
        common = ["--variant", "int8", "--repeats", "2", "--out", str(tmp_path / "out.json")]
        return command.main([*common, *flags])

    return run


SETTING: Setting = setting(scores())


def fast_with_16(target: Target) -> Figures:
    return figures(requests_per_s=600.0 if target.batching == BEST else 500.0)


def test_every_setting_is_measured_each_round_and_the_best_is_printed_kept_and_joined(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: Counter[tuple[str, Batching | None]] = Counter()

    def one(target: Target) -> Figures:
        seen[target.mode.partition(",")[0], target.batching] += 1
        return fast_with_16(target)

    assert peers(one, "--tries", "--targets", "mosec") == 0
    documented, split = targets(["mosec"])
    assert seen == {(mode.mode, batching): 2 for mode in (documented, split) for batching in mode.tries}
    lines = capsys.readouterr().out.splitlines()
    best = [line for line in lines if line.startswith("mosec") and line.endswith("yes") and "16 within 10 ms" in line]
    assert len(best) == 2, "one of each mode"
    written = json.loads((tmp_path / "out.json").read_text())
    (folder,) = store.folders(tmp_path / "results")
    for kept in (written["tries"], store.load(folder).peers.tries):
        assert [(row["mode"], row["tried"]) for row in kept if row["is_best"]] == [
            ("as documented", str(BEST)), ("split", str(BEST))
        ]  # fmt: skip
        assert {row["rounds"] for row in kept} == {2}
    assert written["partial"] is False
    assert written["bundle"] == BUNDLE_ID.fields()
    assert "16 within 10 ms" in (folder / "report.html").read_text()


def test_the_best_is_what_the_next_comparison_uses(peers: Callable[..., int], tmp_path: Path) -> None:
    assert peers(fast_with_16, "--tries", "--targets", "mosec") == 0
    used: set[tuple[str, Batching | None]] = set()

    def one(target: Target) -> Figures:
        used.add((target.mode, target.batching))
        return figures()

    assert peers(one, "--targets", "mosec") == 0
    assert used == {("as documented", BEST), ("split", BEST)}
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["batching"] for row in rows] == [{"batch": 16, "wait_ms": 10}] * 2
    used.clear()
    assert peers(one, "--targets", "mosec", "--variant", "fp32") == 0
    assert ("as documented", Batching(32, 10)) in used, "of another encoder nothing is known"


def test_peers_that_flush_denormals_are_joined_to_no_result(peers: Callable[..., int], tmp_path: Path) -> None:
    """Nor are their tries: no documentation of theirs names the option."""
    assert peers(fast_with_16, "--flush", "--tries", "--targets", "mosec") == 0
    assert peers(lambda _target: figures(), "--flush") == 0
    assert not (tmp_path / "results").exists()
    told = [rounds.peer_environment(replace(SETTING, do_peers_flush=flush), MOSEC, 1, []) for flush in (False, True)]
    assert [environment["PEER_FLUSH"] for environment in told] == ["0", "1"]


def test_a_setting_that_is_not_known_any_more_is_not_used() -> None:
    tries = [{"target": "mosec", "variant": "int8", "mode": "split", "tried": "7 within 3 ms", "is_best": True}]
    assert tuned(targets(["mosec", "swiftrec"]), tries, "int8") == targets(["mosec", "swiftrec"])


def test_tries_of_another_machine_are_not_known(tmp_path: Path) -> None:
    row = {"target": "mosec"}
    for name, machine in (("2026-01-01", fingerprint()), ("2026-01-02", fingerprint() | {"cpu": "Other"})):
        (tmp_path / name).mkdir()
        store.save(tmp_path / name, result(machine=machine, peers={"tries": [row | {"from": name}]}))
    (tmp_path / "2026-01-03").mkdir()
    (tmp_path / "2026-01-03" / store.RESULT).write_text("{")
    assert [one["from"] for one in joined.known_tries(tmp_path, BUNDLE_ID)] == ["2026-01-01"]
    assert joined.known_tries(tmp_path / "nothing", BUNDLE_ID) == []


@pytest.mark.parametrize("spoilt", [{"errors": 1}, {"wrong_answers": 1}])
def test_a_setting_with_errors_or_wrong_answers_is_never_the_best(spoilt: dict[str, int]) -> None:
    results = Results({}, BUNDLE_ID)
    for target in tried(["mosec"]):
        found = figures(requests_per_s=900.0, **spoilt) if target.batching == BEST else figures()
        results.add("int8", target, Entry(found, 1_000.0))
    assert str(BEST) not in [row["tried"] for row in results.tries() if row["is_best"]]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_tries_that_are_cut_off_keep_what_they_have_marked_partial_and_name_no_best(
    error: type[BaseException], peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(target: Target) -> Figures:
        if target.batching == Batching(32, 1):
            raise error("cut off")
        return fast_with_16(target)

    assert peers(one, "--tries", "--targets", "mosec") == 1
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["partial"] is True
    assert [row["tried"] for row in written["tries"]] == ["32 within 10 ms", "16 within 10 ms"]
    assert not any(row["is_best"] for row in written["tries"])
    assert "PARTIAL" in capsys.readouterr().out
    assert not store.folders(tmp_path / "results"), "half a search is not joined"


def test_a_setting_with_which_a_server_dies_leaves_no_best_and_is_told(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(target: Target) -> Figures:
        if target.mode == f"as documented, {Batching(32, 1)}":
            raise PeerError("ended with exit code 3")
        return fast_with_16(target)

    assert peers(one, "--tries", "--targets", "mosec") == 1
    assert f"{MEASURED}, 32 within 1 ms: ended with exit code 3" in capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert [row["mode"] for row in written["tries"] if row["is_best"]] == ["split"]


def test_there_is_nothing_to_try_of_this_server(peers: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert peers(fast_with_16, "--tries", "--targets", "swiftrec") == 2
    assert "swiftrec: no settings to try" in capsys.readouterr().err


def test_rounds_are_interleaved_with_the_floor_before_and_after_each(
    peers: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []
    floors = iter((100.0, 300.0, 500.0, 700.0, 900.0))

    def floor(_setting: Setting) -> float:
        order.append("floor")
        return next(floors)

    def one(target: Target) -> Figures:
        order.append(target.mode)
        return figures()

    monkeypatch.setattr(rounds, "floor_us", floor)
    assert peers(one, "--targets", "mosec") == 0
    assert order == ["floor", *(["as documented", "floor", "split", "floor"] * 2)]
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [[one["floor_us"] for one in row["rounds"]] for row in rows] == [[200, 600], [400, 800]]


def test_the_floor_is_measured_again_after_a_server_that_failed(
    peers: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    floors = iter((100.0, 500.0, 700.0, 900.0))
    monkeypatch.setattr(rounds, "floor_us", lambda _: next(floors))

    def one(target: Target) -> Figures:
        if not target.splits:
            raise PeerError("ended")
        return figures()

    assert peers(one, "--targets", "mosec") == 1
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [one["floor_us"] for one in row["rounds"]] == [600, 800]


def test_a_comparison_that_is_cut_off_after_its_first_variant_keeps_that_one(
    peers: Callable[..., int], tmp_path: Path
) -> None:
    calls = Counter[str]()

    def one(target: Target) -> Figures:
        calls[target.mode] += 1
        if calls[target.mode] > 2:
            raise KeyboardInterrupt
        return figures()

    assert peers(one, "--variant", "fp32") == 1
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["partial"] is True
    assert {row["variant"] for row in written["rows"]} == {"int8"}


def test_two_variants_stand_side_by_side_in_table_and_report(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert peers(lambda _: figures(), "--variant", "fp32") == 0
    (folder,) = store.folders(tmp_path / "results")
    rows = store.load(folder).peers.rows
    every = {(target.name, target.mode) for target in targets([])}
    for variant in ("int8", "fp32"):
        assert {(row["target"], row["mode"]) for row in rows if row["variant"] == variant} == every
    page = (folder / "report.html").read_text()
    for text in (capsys.readouterr().out, page):
        lines = [line.split()[:2] for line in text.splitlines()]
        assert all(lines.count(["mosec", variant]) == 2 for variant in ("int8", "fp32"))
        assert all(lines.count(["swiftrec", variant]) == 3 for variant in ("int8", "fp32"))


def test_a_precision_alone_stands_in_the_rows_as_the_encoder_that_it_means_and_is_measured_once(
    peers: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variants = dict.fromkeys(("static-fp32", "static-int8"), "")
    facts: Any = SimpleNamespace(**BUNDLE_ID.fields(), variants=variants, default={"cpu": "static-fp32"})
    monkeypatch.setattr(command, "load_bundle", lambda _: Bundle(tmp_path, facts))
    assert peers(lambda _: figures(), "--targets", "mosec", "--variant", "static-int8") == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["variant"], row["mode"]) for row in rows] == [
        ("static-int8", "as documented"), ("static-int8", "split")
    ]  # fmt: skip


def test_a_client_at_its_limit_makes_the_comparison_fail_and_its_rows_are_marked(
    peers: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def one(target: Target) -> Figures:
        return figures(client_busy=0.97 if target.splits else 0.5)

    assert peers(one) == 1
    assert "the client is the bottleneck: mosec, split" in capsys.readouterr().err
    (folder,) = store.folders(tmp_path / "results")
    marked = {row["mode"] for row in store.load(folder).peers.rows if row["is_client_limited"]}
    assert marked == {"split"}


def test_a_setting_that_the_client_held_back_is_not_the_best_and_hides_no_better_one() -> None:
    results = Results({}, BUNDLE_ID)
    for target in tried(["mosec"]):
        limit = {"client_busy": 0.97} if target.batching == BEST and not target.splits else {}
        results.add("int8", target, Entry(figures(requests_per_s=500.0 if limit else 400.0, **limit), 1_000.0))
    assert {row["mode"] for row in results.tries() if row["is_best"]} == {"split"}
