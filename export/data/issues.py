"""Mistakes in a user's data: each with place, reason and what to do; all of them, up to a bound of each kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from swiftrec.export.data.order import OTHER_ORDERS
from swiftrec.export.errors import DataError

SHOWN = 20  # places named of each kind; beyond them a mistake is only counted


@dataclass(frozen=True, slots=True)
class Kind:
    """What is wrong, what to do about it, whether the export can go on, and whether it then leaves the row out."""

    name: str
    remedy: str
    skippable: bool = True
    leaves_out: bool = True


NO_TABLE = Kind("missing or double file", "put exactly one CSV, JSONL or Parquet file of each table there", False)
NO_COLUMN = Kind("missing column", "name the column that holds it by --column NAME=COLUMN, or add it", False)
NO_ORDER = Kind("no order of events", f"write the times of the events, or choose another order: {OTHER_ORDERS}", False)
UNREADABLE = Kind("unreadable file", "write the file again as UTF-8 CSV, JSONL or Parquet", False)
BAD_TYPE = Kind("column of a wrong type", "cast the column and write the file again", False)
ENCODING = Kind("bad encoding", "save the file as UTF-8")
BROKEN = Kind("broken row", "repair or remove the row")
EMPTY = Kind("empty cell", "fill it or remove the row")
BAD_ID = Kind("bad id", "give a text of 1 to 512 bytes without control characters, or a whole number")
TWICE = Kind("duplicate item_id", "keep one row for each item")
USER_TWICE = Kind("duplicate user_id", "keep one row for each user")
UNKNOWN = Kind("unknown item", "add the item to items or remove the row")
TIME = Kind("unparsable time", "give seconds since 1970 or an ISO 8601 date and time")
RATED = Kind("bad rating", "give a finite number, or leave the cell empty", leaves_out=False)
VALUE = Kind("bad value", "give one text or a number")
LOST = Kind("event of an item that is left out", "put the item's row right")
CELL = Kind("bad attribute cell", "give a text, a number or a list of texts", leaves_out=False)
BAD_COLUMN = Kind("bad attribute column", "cast the column or remove it", leaves_out=False)
LABELS = Kind("item without a label", "remove the item from items, name it in id2label, or take --adopt never")
FEW_ITEMS = Kind("too few items", "add items", False)
FEW_USERS = Kind("too few users", "add users or interactions; two are trained on, one validates and one tests", False)


class Mistakes:
    """What was found so far: a count of each kind, and the first places."""

    def __init__(self) -> None:
        self._counts: Counter[Kind] = Counter()
        self._noted: Counter[Kind] = Counter()
        self._left_out: Counter[Kind] = Counter()
        self._places: dict[Kind, list[str]] = {}
        self._row = ""

    def add(self, kind: Kind, where: str | Path, reason: str, rows: int | None = None) -> None:
        """Note one; `where` is the file with its line or row, `reason` says what is there and what should be.

        Rows come one after the other: what follows of the same row is noted, but the row is left out once. With `rows`
        it stands for so many other rows.
        """
        self._counts[kind] += rows or 1
        self._noted[kind] += 1
        if rows or not kind.leaves_out or str(where) != self._row:
            self._left_out[kind] += rows or 1
        if kind.leaves_out and not rows:
            self._row = str(where)
        places = self._places.setdefault(kind, [])
        if len(places) < SHOWN:
            places.append(f"{where}: {reason}")

    @property
    def skipped(self) -> dict[str, int]:
        """Kind -> how many rows are left out for it, each for the first that was found; or how many cells emptied."""
        found = {kind: number for kind, number in self._left_out.items() if kind.skippable}
        return {kind.name + ("" if kind.leaves_out else " (emptied)"): number for kind, number in found.items()}

    @property
    def is_fatal(self) -> bool:
        """Whether one of them cannot be skipped."""
        return any(not kind.skippable for kind in self._counts)

    def report(self) -> str:
        """Every kind with its count, its remedy and the first places; empty if there is none."""
        lines: list[str] = []
        for kind, places in self._places.items():
            count = self._counts[kind]
            lines.append(f"{kind.name}, {count:,} time{'s' if count > 1 else ''}: {kind.remedy}")
            lines += [f"  {place}" for place in places]
            if (noted := self._noted[kind]) > len(places):
                lines.append(f"  ... and {noted - len(places):,} more")
        return "\n".join(lines)

    def settle(self, *, skip: bool) -> None:
        """Go on if there is none, or none that cannot be skipped and `skip` is set.

        Raises:
            DataError: the whole report.
        """
        if not self._counts or (skip and not self.is_fatal):
            return
        kept = "; a bad attribute cell is emptied, its row stays" if CELL in self._counts else ""
        kept += "; a bad rating is emptied, its row stays" if RATED in self._counts else ""
        kept += "; a bad attribute column is left out, its rows stay" if BAD_COLUMN in self._counts else ""
        hint = "" if self.is_fatal else f"\n--on-error skip leaves these rows out and counts them{kept}"
        raise DataError(f"the data cannot be used as it is\n{self.report()}{hint}")
