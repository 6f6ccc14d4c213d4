"""`swiftrec COMMAND`: serve, export, ask, bench and the tools beside them (`--help` lists them)."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from swiftrec.server.version import VERSION_FLAG, version_line


class Command(NamedTuple):
    """A function of the arguments that returns an exit code, the arguments that go first, and a line of help."""

    function: str
    first: tuple[str, ...]
    help: str


_COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "serve": Command("swiftrec.server.__main__:main", (), "serve a bundle over gRPC"),
        "tune": Command(
            "swiftrec.server.__main__:main", ("tune",), "find the best settings for a bundle on this machine"
        ),
        "probe": Command("swiftrec.server.__main__:main", ("probe",), "load a bundle and answer once, without a port"),
        "export": Command("swiftrec.export.__main__:program", (), "turn a checkpoint and interactions into a bundle"),
        "doctor": Command("swiftrec.export.__main__:program", ("doctor",), "check a data set without training"),
        "report": Command("swiftrec.export.__main__:program", ("report",), "print size, speed and quality of a bundle"),
        "ask": Command("swiftrec.ask:main", (), "send a request to a running server"),
        "bench": Command("swiftrec.benchmarks.__main__:main", (), "measure a bundle's server"),
    }
)


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command; 2 for a command that does not exist."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name == VERSION_FLAG:
        sys.stdout.write(f"{version_line()}\n")
        return 0
    command = _COMMANDS.get(name)
    if command is None:
        (sys.stdout if name in {"-h", "--help"} else sys.stderr).write(_usage())
        return 0 if name in {"-h", "--help"} else 2
    run = pkgutil.resolve_name(command.function)  # the others need not be installed
    return int(run([*command.first, *rest]))


def _usage() -> str:
    rows = (f"  {name:7} {command.help}" for name, command in _COMMANDS.items())
    return "\n".join(["usage: swiftrec [--version] COMMAND [--help]", *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
