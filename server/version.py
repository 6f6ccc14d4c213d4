"""The version of this installation, and the flag that prints it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

VERSION_FLAG = "--version"
_NAME = "swiftrec"


def version_line() -> str:
    """Name and version, such as "swiftrec 0.1.0"."""
    try:
        return f"{_NAME} {version(_NAME)}"
    except PackageNotFoundError:  # the sources run without an installation
        return f"{_NAME}, version unknown: not installed"


def add_version_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--version`, which prints the version and exits with code 0."""
    parser.add_argument(VERSION_FLAG, action=_PrintVersion, nargs=0, help="show the version and exit")


class _PrintVersion(argparse.Action):
    """Reads the version only when the flag is used, unlike argparse's own action."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002 (argparse's signature)
        values: str | Sequence[object] | None,  # noqa: ARG002
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        """Print the version and exit."""
        sys.stdout.write(f"{version_line()}\n")
        parser.exit()
