"""The JSON files of a checkpoint: what is read of them is checked first, so that damage ends in a sentence."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftrec.export.errors import CheckpointError

Config = dict[str, Any]

_REMEDY = "save the checkpoint again with save_pretrained"
_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def read_object(path: Path, kinds: Mapping[str, type] | None = None) -> Config:
    """The object at `path`; fields that are null are kept.

    Args:
        path: a JSON file.
        kinds: str, int, float, bool, list or dict for each field whose kind matters if it is neither absent nor null.

    Raises:
        CheckpointError: it cannot be read, or a field is of another kind.
    """
    fields: Config = _needed(_read(path), dict, str(path))
    for name, kind in (kinds or {}).items():
        if fields.get(name) is not None:
            _needed(fields[name], kind, f"{path}: {name}")
    return fields


def require_values(path: Path, fields: Config, values: Mapping[str, Sequence[object]], remedy: str) -> None:
    """Refuse a field of `fields`, read from `path`, whose value is none of those that are supported.

    Args:
        path: the file that the refusal names.
        fields: what was read from it.
        values: field -> its supported values; a field that is absent has a supported one.
        remedy: what to do about it.

    Raises:
        CheckpointError: a field has another value.
    """
    for name, supported in values.items():
        if name in fields and not any(_is_same(fields[name], value) for value in supported):
            named = " or ".join(json.dumps(value) for value in supported)
            raise CheckpointError(f"{path}: {name} is {_shown(fields[name])}, supported is {named}: {remedy}")


def require_known(path: Path, fields: Config, known: Collection[str], remedy: str) -> None:
    """Refuse a field that is not among `known`: nobody can say what it would change.

    Raises:
        CheckpointError: there is one.
    """
    for name, value in fields.items():
        if name not in known:
            raise CheckpointError(f"{path}: the field {name} ({_shown(value)}) is not supported: {remedy}")


def _is_same(value: object, supported: object) -> bool:
    """Equality in JSON, where true is not 1."""
    return value == supported and isinstance(value, bool) == isinstance(supported, bool)


def _shown(value: object) -> str:
    return repr(value)[:60]


def read_objects(path: Path, texts: tuple[str, ...]) -> list[Config]:
    """The list of objects at `path`, each with at least the fields `texts`, which are strings.

    Raises:
        CheckpointError: it is none.
    """
    rows: list[Config] = _needed(_read(path), list, str(path))
    for number, row in enumerate(rows):
        for name in texts:
            _needed(_needed(row, dict, f"{path}: entry {number}").get(name), str, f"{path}: {name} of entry {number}")
    return rows


def _read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=object_of)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): {_REMEDY}") from None


def object_of(pairs: list[tuple[str, Any]]) -> Config:
    """The object of these names and values, for `json.loads`, which by itself would keep the last of two values.

    Raises:
        ValueError: it has a name twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def _needed(value: Any, kind: type, what: str) -> Any:  # noqa: ANN401 (JSON)
    is_one = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not is_one:
        shown = "missing" if value is None else _shown(value)
        raise CheckpointError(f"{what} is {shown}, needs to be {_NAMES[kind]}: {_REMEDY}")
    return value
