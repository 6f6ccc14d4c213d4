"""`python -m benchmarks COMMAND`: the measuring tools."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pydantic_settings import BaseSettings
from threadpoolctl import threadpool_limits

from benchmarks import (
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
from benchmarks.extra import sentence
from benchmarks.quality import command as quality
from benchmarks.suite import aims, compare, digest, readme, schema
from benchmarks.suite import run as suite
from benchmarks.suite.settings import BenchSettings
from server.config import read_settings
from server.errors import SwiftrecError
from server.flags import with_flags
from server.version import VERSION_FLAG, version_line

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
    name, *rest = arguments or ["--help"]
    if name == VERSION_FLAG:
        sys.stdout.write(f"{version_line()}\n")
        return 0
    if name not in _COMMANDS:
        (sys.stdout if name in {"-h", "--help"} else sys.stderr).write(_usage())
        return 0 if name in {"-h", "--help"} else 2
    kind, command = _COMMANDS[name]
    try:
        with threadpool_limits(1, "blas"):  # as the server has it, so that what runs here is what runs there
            return command(read_settings(kind, with_flags(rest, os.environ)))
    except (SwiftrecError, RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(f"benchmarks {name}: {sentence(error)}\n")
        return 2


def _usage() -> str:
    rows = (f"  {name:13} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in sorted(_COMMANDS.items()))
    return "\n".join(["usage: python -m benchmarks [--version] COMMAND [--help]", *rows, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
