"""The JSON files of a checkpoint: what is read of them is checked first, so that damage ends in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.errors import CheckpointError

Config = dict[str, Any]

_REMEDY = "save the checkpoint again with save_pretrained"
_NAMES = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}


def read_object(path: Path, kinds: Mapping[str, type] | None = None) -> Config:
    """The object at `path`; a field that is null counts as not there.

    Args:
        path: a JSON file.
        kinds: str, int, float, list or dict for each field whose kind matters where it is there.

    Raises:
        CheckpointError: it cannot be read, or a field is of another kind.
    """
    found = _needed(_read(path), dict, str(path))
    fields = {name: value for name, value in found.items() if value is not None}
    for name in fields.keys() & (kinds or {}).keys():
        _needed(fields[name], (kinds or {})[name], f"{path}: {name}")
    return fields


def read_objects(path: Path, texts: tuple[str, ...]) -> list[dict[str, str]]:
    """The list of objects at `path`, each with the fields `texts`.

    Raises:
        CheckpointError: it is none.
    """
    rows = _needed(_read(path), list, str(path))
    for number, row in enumerate(rows):
        for name in texts:
            _needed(_needed(row, dict, f"{path}: entry {number}").get(name), str, f"{path}: {name} of entry {number}")
    return [{name: row[name] for name in texts} for row in rows]


def _read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_single)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): {_REMEDY}") from None


def _single(pairs: list[tuple[str, Any]]) -> Config:
    """An object; with a key twice it would be one of two, and nobody could say which was meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _needed(value: Any, kind: type, what: str) -> Any:  # noqa: ANN401 (JSON)
    is_one = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    if not is_one:
        shown = "missing" if value is None else repr(value)[:60]
        raise CheckpointError(f"{what} is {shown}, needs to be {_NAMES[kind]}: {_REMEDY}")
    return value
