"""`swiftrec COMMAND`: serve, export, ask, bench and the tools around them (`--help` lists them)."""

from __future__ import annotations

import difflib
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, requires
from types import MappingProxyType
from typing import NamedTuple

from swiftrec.server.version import VERSION_FLAG, version_line


class Command(NamedTuple):
    """A command of `swiftrec`.

    Attributes:
        function: "module:function" of the arguments, which returns the exit code; imported only when it runs.
        prefix: arguments that the function gets before those of the command line.
        extra: the optional dependencies that it needs first.
        help: one line for the list of commands.
    """

    function: str
    prefix: tuple[str, ...]
    extra: str
    help: str


_REQUIREMENT = re.compile(r"([\w.-]+).*extra == [\"'](\w+)[\"']")  # as in: torch==2.13.0; extra == "export"
_SERVER, _EXPORT = "swiftrec.server.__main__:main", "swiftrec.export.__main__:program"
_COMMANDS: Mapping[str, Command] = MappingProxyType(
    {
        "serve": Command(_SERVER, (), "cpu", "serve a bundle over gRPC"),
        "tune": Command(_SERVER, ("tune",), "cpu", "find the fastest settings for a bundle on this machine"),
        "probe": Command(_SERVER, ("probe",), "cpu", "check that a bundle can be served, without opening a port"),
        "ask": Command("swiftrec.ask:main", (), "cpu", "send a request to a running server"),
        "export": Command(_EXPORT, (), "export", "turn a checkpoint and interactions into a bundle"),
        "doctor": Command(_EXPORT, ("doctor",), "export", "check a data set without training"),
        "report": Command(_EXPORT, ("report",), "export", "print size, speed and quality of a bundle"),
        "bench": Command("swiftrec.benchmarks.__main__:main", (), "bench", "measure the server of a bundle"),
    }
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the arguments are those of the process unless they are given.

    Returns:
        The command's exit code; 2 with a sentence on stderr if there is no such command or a package is missing.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name == VERSION_FLAG:
        sys.stdout.write(f"{version_line()}\n")
        return 0
    if name in {"-h", "--help"}:
        sys.stdout.write(_usage())
        return 0
    if name not in _COMMANDS:
        sys.stderr.write(f"swiftrec: unknown command {name}: {suggestion(name, 'swiftrec', _COMMANDS, 'commands')}\n")
        return 2
    command = _COMMANDS[name]
    try:
        run = pkgutil.resolve_name(command.function)
        return int(run([*command.prefix, *rest]))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"", "swiftrec"}:  # not a missing dependency
            raise
        remedy = f"pip install 'swiftrec[{_extra_with(package, command.extra)}]'"
        sys.stderr.write(f"swiftrec {name}: the Python package {package} is not installed: {remedy}\n")
        return 2


def _usage() -> str:
    rows = [f"  {name:7} {command.help}" for name, command in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: swiftrec COMMAND [FLAGS]",
            "",
            "BERT text recommenders over gRPC: export, serve and measure.",
            "",
            "commands:",
            *rows,
            "",
            "swiftrec COMMAND --help lists the flags of a command; swiftrec --version prints the version.",
            "",
        ]
    )


def suggestion(name: str, program: str, names: Iterable[str], kind: str) -> str:
    """What to type instead of an unknown name; `kind` says what the `names` are, in the plural."""
    similar = difflib.get_close_matches(name, [*names], 1)
    return f"did you mean {program} {similar[0]}?" if similar else f"{program} --help lists the {kind}"


def _extra_with(package: str, preferred: str) -> str:
    """The extra that installs an imported package; `preferred` if that is one of several, or if none is known."""
    try:
        matches = map(_REQUIREMENT.match, requires("swiftrec") or [])
    except PackageNotFoundError:  # the sources run without an installation
        return preferred
    name = package.replace("_", "-").lower()
    pairs = [match.groups() for match in matches if match]
    extras = [extra for project, extra in pairs if project == name]
    extras = extras or [extra for project, extra in pairs if project.startswith(name)]  # hdrh is hdrhistogram's module
    return preferred if preferred in extras or not extras else extras[0]


if __name__ == "__main__":
    sys.exit(main())
