"""`python -m benchmarks ratio`: how much of the possible the server reaches, in CPU time, on one core.

Work ratio = (floor CPU per text + echo CPU per request) / server CPU per request; 1.0 is the limit. Overhead = server
CPU per request with an encoder that costs nothing / echo CPU per request.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.floor import Floor
from benchmarks.load import Load
from benchmarks.process import running
from benchmarks.workload import encode_requests, mixed_texts
from server.models.bundle import find_bundle
from server.tuning.machine import machine

_IN_FLIGHT = 64
_WARM_UP = 400


def ratio(bundle: Path, repeats: int, texts: int, server_flags: list[str]) -> None:
    """Measure floor, echo, server and stub server in turn, `repeats` times; print shares and their spread."""
    cores = sorted(os.sched_getaffinity(0))
    folder = find_bundle(bundle)
    sample = mixed_texts(folder, texts + _WARM_UP)
    requests = encode_requests(sample)
    os.sched_setaffinity(0, {cores[0]})
    floor = Floor(folder)
    batch = floor.best_batch(sample[:600])
    serve = ["--bundle", str(folder), "--port", "0", "--metrics-port", "0", "--sessions", "1", "--cache-mb", "0"]
    serve += ["--log-level", "error", *server_flags]
    rows: list[dict[str, float]] = []
    for n in range(repeats):
        os.sched_setaffinity(0, {cores[0]})
        row = {"floor_us": 1e6 * floor.cpu_s(sample[_WARM_UP:], batch)}
        os.sched_setaffinity(0, set(cores[1:]) or {cores[0]})
        row["echo_us"] = _cpu_us("benchmarks.echo", [], requests, cores[0])
        row["server_us"] = _cpu_us("server", serve, requests, cores[0])
        row["stub_us"] = _cpu_us("benchmarks.stub", serve, requests, cores[0])
        row["work_ratio"] = (row["floor_us"] + row["echo_us"]) / row["server_us"]
        row["overhead"] = row["stub_us"] / row["echo_us"]
        rows.append(row)
        sys.stderr.write(f"[{n + 1}/{repeats}] work ratio {row['work_ratio']:.3f}, overhead {row['overhead']:.2f}\n")
    os.sched_setaffinity(0, set(cores))
    _report(rows, folder, batch, texts)


def _cpu_us(module: str, flags: list[str], requests: list[bytes], core: int) -> float:
    """CPU microseconds per request of a server on one core at saturation, warm."""
    with running(module, *flags, cores={core}) as server:
        load = Load(server.address)
        load.closed(requests[:_WARM_UP], _IN_FLIGHT)
        before = server.cpu_s()
        rows = load.closed(requests[_WARM_UP:], _IN_FLIGHT)
        spent_s = server.cpu_s() - before
        load.close()
    if any(rows.code):
        raise RuntimeError(f"{module}: {sum(map(bool, rows.code))} of {len(rows.code)} requests failed")
    return 1e6 * spent_s / len(rows.code)


def _report(rows: list[dict[str, float]], folder: Path, batch: int, texts: int) -> None:
    sys.stdout.write(
        f"{machine()}; commit {commit()}; bundle {folder.parent.name}/{folder.name}; {texts} texts of 3 to "
    )
    sys.stdout.write(f"60 words, one server core, {_IN_FLIGHT} in flight, cache off, floor in batches of {batch}\n")
    for name in rows[0]:
        seen = sorted(row[name] for row in rows)
        sys.stdout.write(f"{name:12s} {statistics.median(seen):9.3f}  ({seen[0]:.3f} to {seen[-1]:.3f})\n")
    medians = {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}
    sys.stdout.write(json.dumps({"commit": commit(), "machine": machine(), **medians}) + "\n")


def commit() -> str:
    """The commit that is checked out, with a plus sign if files differ from it."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip() or "unknown"
