"""Far beyond capacity the server keeps working, answers in time what it accepts, and refuses the rest at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.process import Served, serving
from benchmarks.summary import Rows
from server.models.bundle import Bundle
from tests.conftest import ROOT

_SERVICE_MS, _BATCH, _BUDGET_MS = 50.0, 4, 400.0
_CAPACITY = 1e3 * _BATCH / _SERVICE_MS  # requests a second
_OK, _RESOURCE_EXHAUSTED = 0, 8
_STUB = [
    "-m",
    "benchmarks",
    "stub",
    "--service-ms",
    f"{_SERVICE_MS}",
    "--max-batch-jobs",
    f"{_BATCH}",
    "--sessions",
    "1",
]
_STUB += ["--port", "0", "--metrics-port", "0", "--cache-mb", "0", "--log-level", "error"]


def load(server: Served, bundle: Bundle, times: float, path: Path, seconds: float = 3.0, warmup_s: float = 1.0) -> Rows:
    """Open loop at a multiple of the capacity, from a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "load", "--target", server.address, "--loop", "open"]
    command += ["--bundle", str(bundle.folder), "--rate", f"{times * _CAPACITY}", "--seconds", f"{seconds}"]
    command += ["--warmup-s", f"{warmup_s}", "--rows", str(path), "--max-late-ms", "1000"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return Rows.load(path)


def p99_ms(rows: Rows, code: int) -> float:
    seconds = (rows.done - rows.intended)[rows.code == code]
    return 1e3 * float(np.percentile(seconds, 99)) if len(seconds) else 0.0


def faults(rows: Rows, times: float, seconds: float = 3.0) -> list[str]:
    """What the server did not keep at this load."""
    found = []
    goodput = (rows.code == _OK).sum() / seconds
    if times > 1 and goodput < 0.95 * _CAPACITY:
        found.append(f"goodput {goodput:.1f} of {_CAPACITY}")
    if (accepted := p99_ms(rows, _OK)) > _BUDGET_MS + 2 * _SERVICE_MS:
        found.append(f"p99 of accepted {accepted:.0f} ms")
    if (refused := p99_ms(rows, _RESOURCE_EXHAUSTED)) > 50:
        found.append(f"p99 of refusals {refused:.0f} ms")
    if set(rows.code.tolist()) - {_OK, _RESOURCE_EXHAUSTED}:
        found.append(f"codes {set(rows.code.tolist())}")
    return found


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> object:
    with serving([*_STUB, "--bundle", str(bundle.folder), "--queue-budget-ms", f"{_BUDGET_MS:.0f}"], None) as running:
        yield running


@pytest.mark.parametrize("times", [0.5, 1.0, 1.5, 2.0, 5.0, 10.0])
def test_overload_costs_neither_throughput_nor_latency(
    server: Served, bundle: Bundle, tmp_path: Path, times: float
) -> None:
    rows = load(server, bundle, times, tmp_path / "rows.npz")
    assert faults(rows, times) == []
    if times >= 2:
        assert (rows.code == _RESOURCE_EXHAUSTED).sum() > 0


def test_server_is_normal_again_within_5_s(server: Served, bundle: Bundle, tmp_path: Path) -> None:
    load(server, bundle, 10.0, tmp_path / "over.npz", seconds=1.0, warmup_s=0.5)
    rows = load(server, bundle, 0.5, tmp_path / "after.npz", seconds=2.0, warmup_s=1.0)
    assert set(rows.code.tolist()) == {_OK}
    assert p99_ms(rows, _OK) <= 4 * _SERVICE_MS


def test_without_admission_the_same_check_fails(bundle: Bundle, tmp_path: Path) -> None:
    """Negative control."""
    open_door = ["--queue-budget-ms", "3600000", "--max-calls", "2000", "--max-waiting-jobs", "1000000"]
    with serving([*_STUB, "--bundle", str(bundle.folder), *open_door], None) as running:
        rows = load(running, bundle, 3.0, tmp_path / "rows.npz")
    assert any("p99 of accepted" in fault for fault in faults(rows, 3.0))
