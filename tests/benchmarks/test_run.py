"""The order of a run of `swiftrec bench`, and what is left of one that ends early. Nothing is measured here."""

from __future__ import annotations

import errno
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks import result_files, server_process
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.server_process import ServerProcess
from swiftrec.benchmarks.statistics import RequestRows
from swiftrec.benchmarks.suite import curve
from swiftrec.benchmarks.suite import prepare as before
from swiftrec.benchmarks.suite import run as suite
from swiftrec.benchmarks.suite.context import BenchContext
from swiftrec.benchmarks.suite.result import Client, Result
from swiftrec.benchmarks.suite.results import RawRows
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.server.models.bundle import Bundle
from tests.benchmarks.results import BUNDLE, folders, point, result, workload

CLIENT = Client(ceiling_per_s=6_000, reached_per_s=5_000, client_us=166, processes=1)
FULL = OSError(errno.ENOSPC, "No space left on device", "result.json")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    given = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, given)


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, phases: Callable[[BenchContext], None]) -> int:
    monkeypatch.setattr(suite, "load_cores", lambda: {0})
    monkeypatch.setattr(suite, "start", lambda bench, _: bench.result.bundle.update(BUNDLE))
    monkeypatch.setattr(suite, "client_limit", lambda _: CLIENT)
    monkeypatch.setattr(suite, "_run_phases", phases)
    return suite.run(BenchSettings(results=tmp_path, _cli_parse_args=[]))


def measured(bench: BenchContext) -> None:
    """One point and one workload were measured."""
    bench.result.points.append(point(0.7, 10.0))
    bench.result.workloads["mixed"] = workload()
    bench.raw.add(RequestRows.concatenate([RequestRows(*([[]] * 6))]), bench.result.points[0])  # type: ignore[arg-type]


def test_clients_ceiling_is_measured_and_printed_before_any_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []

    def phases(bench: BenchContext) -> None:
        said.append(capsys.readouterr().err)
        measured(bench)

    assert run(monkeypatch, tmp_path, phases) == 0
    line = "the client can send 6000 requests/s with 1 process(es), 166 us each; a bare server answered 5000/s"
    assert said == [f"  {line}\n"]
    assert "client: at most 6000 requests/s, 166 us each" not in said[0]


def test_ceiling_is_found_against_the_bare_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    requests: list[tuple[str, dict[str, Any]]] = []

    def load(served: ServerProcess, **flags: Any) -> dict[str, Any]:  # noqa: ANN401
        requests.append((served.address, flags))
        values = {"bottleneck": "", "failed": 0, "rejected": 0, "requests": 9}
        return values | {"throughput": 5_000.0, "client_us": 200.0}

    monkeypatch.setattr(server_process, "run_load_tool", load)
    monkeypatch.setattr(before, "load_cores", lambda: {1, 2})
    bench = BenchContext(BenchSettings(results=tmp_path, processes=4, _cli_parse_args=[]), result(), RawRows())
    bench.server, bench.echo = ServerProcess("server", None), ServerProcess("echo", None)
    values = before.client_limit(bench)
    assert [address for address, _ in requests] == ["echo"]
    assert requests[0][1]["max_busy"] == server_process.NO_LIMIT
    assert values.ceiling_per_s == 10_000, "four processes on two cores are good for two"
    assert bench.result.client == values


def test_load_has_the_access_to_the_target_and_none_to_the_bare_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    requests: dict[str, Any] = {}

    def load(served: ServerProcess, **flags: Any) -> dict[str, Any]:  # noqa: ANN401
        requests[served.address] = flags
        return {"bottleneck": "", "failed": 0, "rejected": 0, "requests": 9}

    monkeypatch.setattr(server_process, "run_load_tool", load)
    flags = ["--target", "server", "--tls-ca", "ca.pem", "--token-file", "token", "--results", str(tmp_path)]
    bench = BenchContext(BenchSettings(_cli_parse_args=flags), result(), RawRows())
    bench.saturate(ServerProcess("server", None), "mixed", 1)
    bench.saturate(ServerProcess("echo", None), "mixed", 1, is_echo=True)
    assert (requests["server"]["tls_ca"], requests["server"]["token_file"]) == (Path("ca.pem"), Path("token"))
    assert not {"tls_ca", "token_file"} & requests["echo"].keys()


@pytest.mark.parametrize(
    ("given", "variant"),
    [([], "unknown"), (["--variant", "bert3-int8"], "bert3-int8"), (["--variant", "int8"], "static-int8")],
)
def test_encoder_of_a_server_that_ran_already_is_unknown_unless_it_is_given(
    given: list[str], variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ("static-fp32", "static-int8", "bert3-int8")
    facts: Any = SimpleNamespace(
        name="b", version=1, export_key="5f3a", default={"cpu": "static-fp32"}, variants=dict.fromkeys(names, "a.onnx")
    )
    monkeypatch.setattr(before, "load_bundle", lambda _: Bundle(tmp_path, facts))
    monkeypatch.setattr(before, "first_response", lambda *_: None)
    monkeypatch.setattr(before, "running_server", lambda *_: nullcontext(ServerProcess("echo", None)))
    monkeypatch.setattr(before, "pinned", lambda _: nullcontext())
    monkeypatch.setattr(before, "FloorMeter", lambda *_: None)
    flags = ["--target", "127.0.0.1:8001", "--results", str(tmp_path), *given]
    bench = BenchContext(BenchSettings(_cli_parse_args=flags), result(), RawRows())
    with ExitStack() as stack:
        before.start(bench, stack)
    assert bench.result.bundle["variant"] == variant
    assert bench.result.bundle_id == BundleId("b", "1", "5f3a")
    assert any("give --variant" in note for note in bench.result.notes) is (not given)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "partial: the disk is full at result.json"),
        (RuntimeError("the server at x went away: 9 requests failed"), "partial: the server at x went away"),
        (ValueError("there are no more texts"), "partial: there are no more texts"),
        (KeyboardInterrupt(), "partial: it was interrupted"),
    ],
)
def test_what_was_measured_before_the_end_is_kept_and_marked(
    error: BaseException,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def phases(bench: BenchContext) -> None:
        measured(bench)
        raise error

    assert run(monkeypatch, tmp_path, phases) == 1
    said = capsys.readouterr()
    (folder,) = folders(tmp_path)
    for stored in (result_files.load(folder, Result), Result.model_validate(json.loads(said.out.splitlines()[-1]))):
        assert stored.is_partial
        assert stored.reason.startswith(reason)
        assert len(stored.points) == 1
        assert stored.workloads["mixed"] == workload()
    assert f"swiftrec bench: {reason}" in said.err


def test_a_disk_that_takes_nothing_leaves_the_result_on_stdout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise FULL

    def phases(bench: BenchContext) -> None:
        measured(bench)
        bench.keep()

    monkeypatch.setattr(result_files, "write", full)
    assert run(monkeypatch, tmp_path, phases) == 1
    result = Result.model_validate_json(capsys.readouterr().out.splitlines()[-1])
    assert result.is_partial
    assert "the disk is full" in result.reason
    assert len(result.points) == 1


def test_a_run_that_never_began_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def phases(_bench: BenchContext) -> None:
        raise RuntimeError("nothing answers")

    with pytest.raises(RuntimeError, match="nothing answers"):
        run(monkeypatch, tmp_path, phases)
    assert not folders(tmp_path)


@pytest.mark.parametrize(("budget_s", "has_time"), [(1e9, True), (1e-9, False)])
def test_what_follows_the_rounds_is_left_out_when_no_time_is_left(
    budget_s: float, has_time: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("read_curve", "closed_loop_steps"):
        monkeypatch.setattr(curve, name, lambda *_: None)
    monkeypatch.setattr(suite, "Rounds", lambda *_: type("None", (), {"run": lambda *_: None})())
    monkeypatch.setattr(suite, "measure_parts", lambda *_: {"index": {}})
    bench = BenchContext(
        BenchSettings(budget_s=budget_s, results=tmp_path, _cli_parse_args=[]),
        result(batch_per_s=float("nan")),
        RawRows(),
    )
    bench.floor = object()  # type: ignore[assignment]
    monkeypatch.setattr(bench, "saturate", lambda *_, **__: {"throughput": 9.0})
    monkeypatch.setattr(bench, "add_point", lambda *_, **__: None)
    suite._run_phases(bench)
    assert np.isfinite(bench.result.batch_per_s) == has_time
    assert bool(bench.result.parts) == has_time
    assert len(bench.result.notes) == (0 if has_time else 2)
