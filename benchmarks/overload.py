"""`python -m benchmarks overload`: what a server keeps when far more is asked than it can do.

The server runs with models of a fixed service time, so its capacity is known; an open loop asks for a multiple of it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.extra import gathered
from benchmarks.process import Served, serving
from benchmarks.summary import OK, RESOURCE_EXHAUSTED, Rows

SERVICE_MS, _BATCH, BUDGET_MS = 50.0, 4, 400.0
CAPACITY = 1e3 * _BATCH / SERVICE_MS  # requests a second
_STUB = f"-m benchmarks stub --service-ms {SERVICE_MS} --max-batch-jobs {_BATCH} --sessions 1 --cache-mb 0".split()
_STUB += ["--port", "0", "--metrics-port", "0", "--log-level", "error"]
OPEN_DOOR = (
    *("--queue-budget-ms", "3600000", "--default-timeout-ms", "3600000"),
    *("--max-calls", "2000", "--max-waiting-jobs", "1000000"),
)
_CONTROL = " no admission"
_GOODPUT, _REFUSAL_MS = 0.95, 50.0


class OverloadSettings(BaseSettings):
    """Ask for .5 to 10 times what a server of fixed service time can do, with admission and without."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks overload", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle whose item texts are sent")
    times: list[float] = Field([0.5, 1.0, 1.5, 2.0, 5.0, 10.0], description="load as a multiple of the capacity")
    seconds: float = Field(3.0, gt=0, description="length of each measurement")


@dataclass(frozen=True, slots=True)
class Step:
    """One load: goodput as a share of the capacity, p99 of answers and of refusals in ms, other status codes seen."""

    times: float
    goodput: float
    accepted_ms: float
    refused_ms: float
    refused: int
    others: list[int]

    def faults(self) -> list[str]:
        """What the server did not keep."""
        found = []
        if self.times > 1 and self.goodput < _GOODPUT:
            found.append(f"goodput {self.goodput:.3f} of the capacity, at least {_GOODPUT}")
        if self.accepted_ms > (bound := BUDGET_MS + 2 * SERVICE_MS):
            found.append(f"p99 of accepted {self.accepted_ms:.0f} ms, at most {bound:.0f}")
        if self.refused_ms > _REFUSAL_MS:
            found.append(f"p99 of refusals {self.refused_ms:.0f} ms, at most {_REFUSAL_MS:.0f}")
        if self.others:
            found.append(f"status codes {self.others}")
        return found


def run(settings: OverloadSettings) -> int:
    """Write the table; exit code 1 if something was not kept, or if the control without admission kept everything."""
    found, reason = gathered(_steps(settings))
    rows = [_row(what, one) for what, one in found]
    text = report.table(["load", "goodput", "p99 accepted ms", "p99 refused ms", "refused", "not kept"], rows)
    control = [fault for what, one in found if what == _CONTROL for fault in one.faults()]
    is_kept = not any(one.faults() for what, one in found if what != _CONTROL) and bool(control)
    steps = [one.goodput for what, one in found if not what]
    code = report.ended("overload", text, {"steps": steps, "is_kept": is_kept, "control": control}, reason)
    return code or (0 if is_kept else 1)


def _steps(settings: OverloadSettings) -> Iterator[tuple[str, Step]]:
    """What is said of each load, and what came of it; the last one is the control."""
    with stub_server(settings.bundle) as server:
        for times in settings.times:
            yield "", step(server, settings.bundle, times, settings.seconds)
        yield " after that", step(server, settings.bundle, 0.5, settings.seconds)
    with stub_server(settings.bundle, *OPEN_DOOR) as server:
        yield _CONTROL, step(server, settings.bundle, 3.0, settings.seconds)


@contextmanager
def stub_server(bundle: Path, *flags: str) -> Iterator[Served]:
    """The server with a queue budget of 400 ms, or with these flags instead."""
    flags = flags or ("--queue-budget-ms", f"{BUDGET_MS:.0f}")
    with serving([*_STUB, "--bundle", str(bundle), *flags], None) as running:
        yield running


def step(server: Served, bundle: Path, times: float, seconds: float = 3.0, warmup_s: float = 1.0) -> Step:
    """One load at a multiple of the capacity, from a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.npz"
        command = [sys.executable, "-m", "benchmarks", "load", "--target", server.address, "--loop", "open"]
        command += ["--bundle", str(bundle), "--rate", f"{times * CAPACITY}", "--seconds", f"{seconds}"]
        command += ["--warmup-s", f"{warmup_s}", "--rows", str(path), "--max-late-ms", "1000"]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)  # noqa: S603
        if ended.returncode:
            raise RuntimeError(f"the load failed: {ended.stderr.strip()}")
        return judge(Rows.load(path), times, seconds)


def judge(rows: Rows, times: float, seconds: float) -> Step:
    """The figures of the rows."""
    codes = set(rows.code.tolist()) - {OK, RESOURCE_EXHAUSTED}
    goodput = float((rows.code == OK).sum() / seconds / CAPACITY)
    refused = int((rows.code == RESOURCE_EXHAUSTED).sum())
    return Step(times, goodput, _p99_ms(rows, OK), _p99_ms(rows, RESOURCE_EXHAUSTED), refused, sorted(codes))


def _p99_ms(rows: Rows, code: int) -> float:
    seconds = (rows.done - rows.intended)[rows.code == code]
    return 1e3 * float(np.percentile(seconds, 99)) if len(seconds) else 0.0


def _row(name: str, one: Step) -> list[str]:
    figures = [f"{one.goodput:.3f}", f"{one.accepted_ms:.0f}", f"{one.refused_ms:.1f}", str(one.refused)]
    return [f"{one.times:g}x{name}", *figures, "; ".join(one.faults()) or "-"]
