"""JSON objects in which no name occurs twice."""

from __future__ import annotations

from typing import Any


def unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these names and values, as `object_pairs_hook` of `json.loads`, which keeps the last of two.

    Raises:
        ValueError: a name occurs twice.
    """
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return fields
