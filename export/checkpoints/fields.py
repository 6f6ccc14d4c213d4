"""JSON files of a checkpoint: fields are checked before they are used, so that damage is reported in a sentence."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from swiftrec.export.errors import CheckpointError
from swiftrec.export.strict_json import unique_object

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
    """Read the object at `path`; fields that are null are kept.

    Args:
        path: a JSON file.
        kinds: str, int, float, bool, list or dict for each field that is checked if it is neither absent nor null.

    Raises:
        CheckpointError: it cannot be read, or a field has another type.
    """
    fields: Config = _require(_read(path), dict, str(path))
    for name, kind in (kinds or {}).items():
        if fields.get(name) is not None:
            _require(fields[name], kind, f"{path}: {name}")
    return fields


def require_values(path: Path, fields: Config, values: Mapping[str, Sequence[object]], remedy: str) -> None:
    """Refuse a field of `fields`, read from `path`, with an unsupported value.

    Args:
        path: the file, for the message.
        fields: the object in it.
        values: field -> its supported values; an absent field is supported.
        remedy: how to fix it.

    Raises:
        CheckpointError: a field has another value.
    """
    for name, supported in values.items():
        if name in fields and not any(_is_same(fields[name], value) for value in supported):
            named = " or ".join(json.dumps(value) for value in supported)
            raise CheckpointError(f"{path}: {name} is {_shown(fields[name])}, supported is {named}: {remedy}")


def require_known(path: Path, fields: Config, known: Collection[str], remedy: str) -> None:
    """Refuse a field that is not among `known`, since its effect is unknown.

    Raises:
        CheckpointError: there is such a field.
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
    """Read the list of objects at `path`, each with at least the fields `texts`, which are strings.

    Raises:
        CheckpointError: it is not such a list.
    """
    rows: list[Config] = _require(_read(path), list, str(path))
    for number, row in enumerate(rows):
        for name in texts:
            _require(_require(row, dict, f"{path}: entry {number}").get(name), str, f"{path}: {name} of entry {number}")
    return rows


def _read(path: Path) -> Any:  # noqa: ANN401 (JSON)
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique_object)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}): {_REMEDY}") from None


def _require(value: Any, kind: type, what: str) -> Any:  # noqa: ANN401 (JSON)
    is_one = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not is_one:
        shown = "missing" if value is None else _shown(value)
        raise CheckpointError(f"{what} is {shown}, needs to be {_NAMES[kind]}: {_REMEDY}")
    return value
