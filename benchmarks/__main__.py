"""`swiftrec bench [TOOL]`: the measuring tools; without a tool the benchmark of a bundle's server."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from pydantic_settings import BaseSettings
from threadpoolctl import threadpool_limits

from swiftrec.__main__ import suggestion
from swiftrec.benchmarks import (
    against,
    echo,
    fair,
    floor,
    load,
    null_server,
    overload,
    record,
    swaps,
    teacher,
)
from swiftrec.benchmarks.catalogue import command as catalogue
from swiftrec.benchmarks.microbenchmarks import contention, parts
from swiftrec.benchmarks.optional_deps import error_sentence
from swiftrec.benchmarks.peers import command as peers
from swiftrec.benchmarks.quality import command as quality
from swiftrec.benchmarks.suite import compare, readme, schema, summary, targets
from swiftrec.benchmarks.suite import run as suite
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.flags import with_flags
from swiftrec.server.settings_reader import read_settings
from swiftrec.server.version import version_line

_DEFAULT = "bench"
_TOOLS: dict[str, tuple[type[BaseSettings], Callable[[Any], int]]] = {
    "against": (against.AgainstSettings, against.run),
    "bench": (BenchSettings, suite.run),
    "catalogue": (catalogue.CatalogueSettings, catalogue.run),
    "compare": (compare.CompareSettings, compare.run),
    "contention": (contention.ContentionSettings, contention.run),
    "echo": (echo.EchoSettings, echo.run),
    "fair": (fair.FairSettings, fair.run),
    "floor": (floor.FloorSettings, floor.run),
    "load": (load.LoadSettings, load.run),
    "null-server": (null_server.NullModelSettings, null_server.run),
    "overload": (overload.OverloadSettings, overload.run),
    "parts": (parts.PartsSettings, parts.run),
    "peers": (peers.PeersSettings, peers.run),
    "quality": (quality.QualitySettings, quality.run),
    "readme": (readme.ReadmeSettings, readme.run),
    "record": (record.RecordSettings, record.run),
    "schema": (schema.SchemaSettings, schema.run),
    "summary": (summary.SummarySettings, summary.run),
    "swaps": (swaps.SwapsSettings, swaps.run),
    "targets": (targets.TargetsSettings, targets.run),
    "teacher": (teacher.TeacherSettings, teacher.run),
    "teacher-serve": (teacher.TeacherServeSettings, teacher.serve),
}

_RENAMED = {"stub": "null-server"}
"""Old tool -> new tool: the old name works for one release, with a warning."""
_WITHDRAWN = {
    "ratio": "use swiftrec bench --workloads NAME",
    **dict.fromkeys(("fronts", "gaps", "hotspots", "padding"), "swiftrec bench --help lists the tools"),
    "peers --flush": "leave the flag out, as the other servers run with their own settings",
}
"""Tools and flags that no longer exist, each with what to do instead."""


def main(arguments: list[str]) -> int:
    """Run a tool; the exit code is 2, with one sentence on stderr, if it cannot run."""
    match arguments:
        case ["--version"]:
            sys.stdout.write(f"{version_line()}\n")
            return 0
        case ["-h" | "--help"]:
            sys.stdout.write(_usage())
            return 0
    name, *rest = arguments if arguments and not arguments[0].startswith("-") else [_DEFAULT, *arguments]
    if name in _RENAMED:
        new = _RENAMED[name]
        sys.stderr.write(
            f"swiftrec bench: warning: {name} is now {new}: the old name will not work in the next release\n"
        )
        name = new
    if problem := _problem(name, rest):
        sys.stderr.write(f"swiftrec bench: {problem}\n")
        return 2
    settings, tool = _TOOLS[name]
    program = "swiftrec bench" if name == _DEFAULT else f"swiftrec bench {name}"
    try:
        with threadpool_limits(1, "blas"):  # as in the server, so that the same code runs here and there
            return tool(read_settings(settings, with_flags(rest, os.environ)))
    except (SwiftrecError, RuntimeError, ValueError, OSError) as error:
        sys.stderr.write(f"{program}: {error_sentence(error)}\n")
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: it was interrupted before anything was measured\n")
    return 2


def _problem(name: str, flags: list[str]) -> str:
    """Why the tool or one of its flags does not exist, and what to do; empty if they may."""
    for called in (name, *(f"{name} {flag.partition('=')[0]}" for flag in flags)):
        if called in _WITHDRAWN:
            return f"{called} was withdrawn: {_WITHDRAWN[called]}"
    return "" if name in _TOOLS else f"unknown tool {name}: {suggestion(name, 'swiftrec bench', _TOOLS, 'tools')}"


def _usage() -> str:
    rows = (f"  {name:13} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in sorted(_TOOLS.items()))
    usage = f"usage: swiftrec bench [TOOL] [FLAGS]; without a tool `{_DEFAULT}`; TOOL --help lists its flags"
    return "\n".join([usage, *rows, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
