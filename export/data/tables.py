"""A user's own data set: `interactions` and `items` as CSV, JSONL or Parquet in one folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from export.data.dataset import Dataset, Item, Probe
from export.data.users import user_groups
from export.errors import DataError

_RESERVED = {"item_id", "text", "title"}
_MIN_PROBE_ITEMS = 10
_MAX_PROBES = 32


def read(folder: Path) -> Dataset:
    """Read `folder/items.*` (item_id, text[, title], attribute columns) and `folder/interactions.*`.

    A cell with several values separates them with "|". Interactions need user_id, item_id and timestamp (a number).
    `folder/users.*` (user_id, attribute columns) is optional: quality is then reported for each group of users, too.

    Raises:
        DataError: a file, a column or a value is missing or wrong; the sentence names file and row.
    """
    items = _items(_table(folder, "items"))
    if len(items) < 2:
        raise DataError(f"{folder}: items needs at least 2 items, got {len(items)}")
    position = {item.id: n for n, item in enumerate(items)}
    events: dict[str, list[tuple[float, int, int]]] = {}
    for where, number, row in _table(folder, "interactions"):
        user, item, time = (_cell(row, name, where) for name in ("user_id", "item_id", "timestamp"))
        if item not in position:
            raise DataError(f"{where}: item_id {item!r} is not in items: add the item or remove the row")
        events.setdefault(user, []).append((_number(time, where), number, position[item]))
    rows = [sorted(e) for e in events.values()]
    return Dataset(
        items=items,
        histories=[np.array([n for _, _, n in row], dtype=np.int64) for row in rows],
        nouns=["item"],
        probes=_probes(items),
        source=f"{folder.name} (user's own)",
        licence="the user's own",
        times=[np.array([time for time, _, _ in row]) for row in rows],
        users=_users(folder, list(events)),
    )


def _users(folder: Path, users: list[str]) -> list[dict[str, str]]:
    """The groups of each user from the optional table `users` (user_id, attribute columns)."""
    if not any((folder / f"users{suffix}").exists() for suffix in _READERS):
        return []
    return user_groups((row for _, _, row in _table(folder, "users")), users)


def _table(folder: Path, name: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yield (where, number, row) of `folder/name.{csv,jsonl,parquet}`."""
    paths = [p for p in (folder / f"{name}.{suffix}" for suffix in ("csv", "jsonl", "parquet")) if p.exists()]
    if not paths:
        raise DataError(f"{folder}: no {name}.csv, {name}.jsonl or {name}.parquet there")
    if len(paths) > 1:
        raise DataError(f"{folder}: {', '.join(p.name for p in paths)} are all there: keep one")
    for number, row in enumerate(_READERS[paths[0].suffix](paths[0]), 1):
        yield f"{paths[0]}, row {number}", number, row


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, row {number}: not JSON ({error.msg})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number}: needs an object, got {type(row).__name__}")
            yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    for batch in parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


_READERS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}


def _items(rows: Iterator[tuple[str, int, dict[str, Any]]]) -> list[Item]:
    items: dict[str, Item] = {}
    for where, _, row in rows:
        key, text = _cell(row, "item_id", where), _cell(row, "text", where)
        if key in items:
            raise DataError(f"{where}: item_id {key!r} is there twice: keep one")
        attributes = {name: _values(value) for name, value in row.items() if name not in _RESERVED}
        title = str(row.get("title") or text[:80])
        items[key] = Item(key, title, text, {name: values for name, values in attributes.items() if values})
    return list(items.values())


def _cell(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None or str(value).strip() == "":
        raise DataError(f"{where}: column {name} is missing or empty")
    return str(value)


def _number(value: str, where: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise DataError(f"{where}: timestamp {value!r} is not a number: give seconds since 1970") from None


def _values(cell: object) -> list[str]:
    if cell is None:
        return []
    parts = cell if isinstance(cell, list) else str(cell).split("|")
    return [str(part).strip() for part in parts if str(part).strip()]


def _probes(items: list[Item]) -> list[Probe]:
    """One probe for each attribute value that enough items carry, the most frequent ones first."""
    counts: dict[tuple[str, str], int] = {}
    for item in items:
        for name, values in item.attributes.items():
            for value in values:
                counts[name, value] = counts.get((name, value), 0) + 1
    frequent = sorted((key for key, n in counts.items() if n >= _MIN_PROBE_ITEMS), key=lambda k: (-counts[k], k))
    return [Probe(f"a good {value.lower()}", name, value) for name, value in frequent[:_MAX_PROBES]]
