"""`python -m benchmarks hotspots`: where the server's CPU goes at saturation, line by line of our own code (py-spy).

A sample is of the thread that holds the interpreter, and belongs to the innermost frame of `server/`: what a library
does counts for the place that called it. What holds no interpreter (gRPC's own threads, onnxruntime) is the rest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.client import ClosedLoop, Log, connected
from benchmarks.machine import cpu_seconds, pinned
from benchmarks.process import Served, load_cores, more_flags, serving
from benchmarks.summary import OK
from benchmarks.workload import KINDS, PATHS, Name, make

_SPY = Path(sys.executable).with_name("py-spy")
_PER_S = 100
_ELSEWHERE = "outside server/"
_REQUESTS = 4_000


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


@dataclass(frozen=True, slots=True)
class Profile:
    """py-spy's raw lines, and what went on meanwhile: answers per second, CPU microseconds each, cores used."""

    stacks: list[str]
    per_s: float
    server_us: float
    busy: float


def run(settings: HotspotsSettings) -> int:
    """Write the table."""
    if not _SPY.exists():
        raise RuntimeError("py-spy is missing: python -m pip install -c constraints.txt -e '.[cpu,bench]' (make setup)")
    flags = ["--bundle", str(settings.bundle), "--port", "0", "--metrics-port", "0", "--log-level", "error"]
    flags += more_flags(settings.variant, settings.server_flags, has_cache=KINDS[settings.workload].repeats)
    with serving(["-m", "server", *flags]) as served:
        found = profile(settings, served)
    by_place, by_room = places(found.stacks), rooms(found.stacks)
    whole = max(1, sum(by_place.values()))
    rows = [[place, f"{number / whole:.1%}"] for place, number in by_place.most_common(settings.lines)]
    text = "\n\n".join(
        [
            report.table(["place", "of the samples"], rows),
            report.table(["room", "of the samples"], [[room, f"{n / whole:.1%}"] for room, n in by_room.most_common()]),
            f"{found.per_s:.0f}/s, {found.server_us:.0f} us of CPU each; {found.busy:.2f} cores used, the interpreter "
            f"held {whole / (_PER_S * settings.seconds):.2f} of the time ({whole} samples)",
        ]
    )
    report.write(text, {"places": dict(by_place), "rooms": dict(by_room), "server_us": found.server_us})
    return 0


def profile(settings: HotspotsSettings, served: Served) -> Profile:
    """Keep the server saturated from this process while py-spy looks at it.

    Raises:
        RuntimeError: the server ended, or there is no profile.
    """
    kind = KINDS[settings.workload]
    asked = make(settings.workload, settings.bundle, max(64, _REQUESTS // kind.entries), settings.seed)
    with pinned(load_cores()), connected(served.address, PATHS[asked.method]) as send:
        loop = ClosedLoop(send, Log(asked), max(1, settings.in_flight // kind.entries), cycle=True)
        started, spent = time.monotonic(), cpu_seconds(served.pid or 0)
        loop.start()
        stacks = _spied(served.pid or 0, settings.seconds)
        served.check()
        seconds, spent = time.monotonic() - started, cpu_seconds(served.pid or 0) - spent
        loop.stop()
        rows = loop.rows().within(started, started + seconds)
    answers = max(1, int(rows.entries[rows.code == OK].sum()))
    return Profile(stacks, answers / seconds, 1e6 * spent / answers, spent / seconds)


def _spied(pid: int, seconds: int) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "stacks"
        command = [str(_SPY), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(_PER_S)]
        command += ["--gil", "--format", "raw", "--output", str(path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if ended.returncode or not path.exists():
            said = ended.stderr.strip() or f"exit code {ended.returncode}"
            raise RuntimeError(
                f"py-spy wrote no profile ({said}): it needs a server that lives, and the right to trace it (root, or "
                "kernel.yama.ptrace_scope=0)"
            )
        return path.read_text(encoding="utf-8").splitlines()


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
