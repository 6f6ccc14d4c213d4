"""`swiftrec bench COMMAND`: the measuring tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pydantic_settings import BaseSettings
from threadpoolctl import threadpool_limits

from swiftrec.benchmarks import (
    against,
    catalogue,
    contention,
    echo,
    fair,
    floor,
    load,
    overload,
    parts,
    ratio,
    record,
    stub,
    swaps,
    teacher,
    teacher_server,
)
from swiftrec.benchmarks.extra import sentence
from swiftrec.benchmarks.peers.__main__ import main as peers
from swiftrec.benchmarks.quality import command as quality
from swiftrec.benchmarks.suite import aims, compare, digest, readme, schema
from swiftrec.benchmarks.suite import run as suite
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.server.config import read_settings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.flags import with_flags
from swiftrec.server.version import version_line

_COMMANDS: dict[str, tuple[type[BaseSettings], Callable[[Any], int]]] = {
    "against": (against.AgainstSettings, against.run),
    "bench": (BenchSettings, suite.run),
    "catalogue": (catalogue.CatalogueSettings, catalogue.run),
    "compare": (compare.CompareSettings, compare.run),
    "contention": (contention.ContentionSettings, contention.run),
    "echo": (echo.EchoSettings, echo.run),
    "fair": (fair.FairSettings, fair.run),
    "floor": (floor.FloorSettings, floor.run),
    "load": (load.LoadSettings, load.run),
    "overload": (overload.OverloadSettings, overload.run),
    "parts": (parts.PartsSettings, parts.run),
    "quality": (quality.QualitySettings, quality.run),
    "ratio": (ratio.RatioSettings, ratio.run),
    "record": (record.RecordSettings, record.run),
    "readme": (readme.ReadmeSettings, readme.run),
    "schema": (schema.SchemaSettings, schema.run),
    "stub": (stub.StubSettings, stub.run),
    "summary": (digest.SummaryConfig, digest.run),
    "swaps": (swaps.SwapsSettings, swaps.run),
    "targets": (aims.TargetsSettings, aims.run),
    "teacher": (teacher.TeacherSettings, teacher.run),
    "teacher-serve": (teacher_server.TeacherServeSettings, teacher_server.run),
}


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with one sentence on stderr."""
    match arguments:
        case ["--version"]:
            sys.stdout.write(f"{version_line()}\n")
            return 0
        case ["-h" | "--help"]:
            sys.stdout.write(_usage())
            return 0
        case ["peers", *rest]:
            return peers(rest)
    name, *rest = arguments if arguments and not arguments[0].startswith("-") else ["bench", *arguments]
    if name not in _COMMANDS:
        sys.stderr.write(_usage())
        return 2
    kind, command = _COMMANDS[name]
    try:
        with threadpool_limits(1, "blas"):  # as the server has it, so that what runs here is what runs there
            return command(read_settings(kind, with_flags(rest, os.environ)))
    except (SwiftrecError, RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(f"benchmarks {name}: {sentence(error)}\n")
        return 2


def _usage() -> str:
    rows = (f"  {name:13} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in sorted(_COMMANDS.items()))
    usage = "usage: swiftrec bench [TOOL] [FLAGS]; without a tool `bench`; `peers` compares with other servers"
    return "\n".join([usage, *rows, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
