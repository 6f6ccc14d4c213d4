"""`python -m benchmarks COMMAND`: the measuring tools."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from pydantic_settings import BaseSettings

from benchmarks import catalogue, echo, floor, fronts, load, ratio, stub
from server.config import read_settings
from server.errors import SwiftrecError

_COMMANDS: dict[str, tuple[type[BaseSettings], Callable[[Any], int]]] = {
    "catalogue": (catalogue.CatalogueSettings, catalogue.run),
    "echo": (echo.EchoSettings, echo.run),
    "floor": (floor.FloorSettings, floor.run),
    "fronts": (fronts.FrontsSettings, fronts.run),
    "load": (load.LoadSettings, load.run),
    "ratio": (ratio.RatioSettings, ratio.run),
    "stub": (stub.StubSettings, stub.run),
}


def main(arguments: list[str]) -> int:
    """Exit code 0, or 2 with one sentence on stderr."""
    name, *rest = arguments or ["--help"]
    if name not in _COMMANDS:
        (sys.stdout if name in {"-h", "--help"} else sys.stderr).write(_usage())
        return 0 if name in {"-h", "--help"} else 2
    kind, command = _COMMANDS[name]
    try:
        return command(read_settings(kind, rest))
    except (SwiftrecError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"benchmarks {name}: {error}\n")
        return 2


def _usage() -> str:
    rows = (f"  {name:8} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in sorted(_COMMANDS.items()))
    return "\n".join(["usage: python -m benchmarks COMMAND [--help]", *rows, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
