"""`python -m benchmarks hotspots`: where the server's CPU goes at saturation, line by line of our own code (py-spy).

A sample belongs to the innermost frame of `server/`: what a library does counts for the place that called it. gRPC's
threads without any Python are not seen.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.measure import load
from benchmarks.process import more_flags, serving
from benchmarks.workload import KINDS, Name

_SPY = Path(sys.executable).with_name("py-spy")
_PER_S = 200
_ELSEWHERE = "outside server/"
_END_S = 30.0


class HotspotsSettings(BaseSettings):
    """Profile the server under load: which places of our code take how much of its CPU time."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks hotspots", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder, e.g. bert3-int8; the bundle's default if not given")
    workload: Name = Field("query", description="what is sent; query is the job of make bench-peers")
    in_flight: int = Field(64, ge=1, le=4_096, description="requests in flight")
    seconds: int = Field(10, ge=1, description="length of the profile")
    lines: int = Field(25, ge=1, description="places that are shown")
    server_flags: str = Field("--sessions 1", description='flags of the server, as one word: --server-flags="..."')
    seed: int = Field(7, description="of the requests")


def run(settings: HotspotsSettings) -> int:
    """Write the table."""
    if not _SPY.exists():
        raise RuntimeError("py-spy is missing: python -m pip install -c constraints.txt -e '.[cpu,dev]' (make setup)")
    flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--log-level", "error"]
    flags += more_flags(settings.variant, settings.server_flags, has_cache=KINDS[settings.workload].repeats)
    with serving(["-m", "server", *flags]) as served, tempfile.TemporaryDirectory() as scratch:
        found, stacks = _watched(settings, served, Path(scratch) / "stacks")
    by_place, by_room = places(stacks), rooms(stacks)
    whole = max(1, sum(by_place.values()))
    seen = whole / (_PER_S * settings.seconds)
    rows = [[place, f"{number / whole:.1%}"] for place, number in by_place.most_common(settings.lines)]
    text = "\n\n".join(
        [
            report.table(["place", "of the samples"], rows),
            report.table(["room", "of the samples"], [[room, f"{n / whole:.1%}"] for room, n in by_room.most_common()]),
            f"{found['throughput']:.0f}/s, {found['server_us']:.0f} us of CPU each, {found['server_busy']:.2f} cores; "
            f"{seen:.2f} threads with Python at work at a time (they may wait for a core or the interpreter)",
        ]
    )
    report.write(text, {"places": dict(by_place), "rooms": dict(by_room), "load": found})
    return 0


def _watched(settings: HotspotsSettings, served: Any, path: Path) -> tuple[dict[str, Any], list[str]]:  # noqa: ANN401
    command = [
        str(_SPY),
        "record",
        "--pid",
        str(served.pid),
        "--duration",
        str(settings.seconds),
        "--rate",
        str(_PER_S),
    ]
    command += ["--format", "raw", "--output", str(path), "--nonblocking"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:  # noqa: S603
        try:
            found = load(
                served,
                bundle=settings.bundle,
                workload=settings.workload,
                in_flight=max(1, settings.in_flight // KINDS[settings.workload].entries),
                seconds=settings.seconds,
                seed=settings.seed,
                may_refuse=True,
            )
            _, said = spy.communicate(timeout=_END_S)
        finally:
            spy.kill()
    if not path.exists():
        raise RuntimeError(f"py-spy wrote no profile: {said.strip()}")
    return found, path.read_text(encoding="utf-8").splitlines()


def places(stacks: Iterable[str]) -> Counter[str]:
    """Samples by innermost place of ours.

    Args:
        stacks: py-spy's raw lines, "frame;frame;frame NUMBER", a frame being "function (file:line)".
    """
    found: Counter[str] = Counter()
    for stack in stacks:
        frames, _, number = stack.rpartition(" ")
        found[next((f for f in reversed(frames.split(";")) if "(server/" in f), _ELSEWHERE)] += int(number)
    return found


def rooms(stacks: Iterable[str]) -> Counter[str]:
    """The same by folder, e.g. `server/api`."""
    found: Counter[str] = Counter()
    for place, number in places(stacks).items():
        path = place.partition("(")[2].rpartition("/")[0]
        found[path or _ELSEWHERE] += number
    return found
