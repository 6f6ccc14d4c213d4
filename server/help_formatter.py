"""How `--help` shows a setting: the plain type of its value, and no default where there is none."""

from __future__ import annotations

import argparse
import re

_NO_DEFAULT = re.compile(r" ?\(default: (null|None)?\)$")
_OPTIONAL = re.compile(r"^\{(\w+),null\}$")
_LIST = re.compile(r"^list\[(.*)\]$")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows `{Path,null}` and `list[Path]`, as pydantic calls types, as `Path`."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help and _NO_DEFAULT.sub("", action.help)

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 (argparse's: a function)
        shown = super()._metavar_formatter(action, default_metavar)
        return lambda size: tuple(_plain(part) for part in shown(size))


def _plain(metavar: str) -> str:
    """The type of one value."""
    return _LIST.sub(r"\1", _OPTIONAL.sub(r"\1", metavar))
