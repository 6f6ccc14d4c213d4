"""Issues in a user's data: each with location, reason and remedy; all are counted, the first of each kind are shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from swiftrec.export.data.order import OTHER_ORDERS
from swiftrec.export.errors import DataError
from swiftrec.export.ids import known_spelling

MAX_SHOWN = 20  # issues of each kind that the report names; the rest is counted


@dataclass(frozen=True, slots=True)
class IssueKind:
    """What is wrong and how to fix it; whether the export can skip it, and if so whether it leaves the row out."""

    name: str
    remedy: str
    skippable: bool = True
    leaves_out: bool = True


NO_TABLE = IssueKind("missing or double file", "put exactly one CSV, JSONL or Parquet file of each table there", False)
NO_COLUMN = IssueKind("missing column", "name the column that holds it by --column NAME=COLUMN, or add it", False)
NO_ORDER = IssueKind(
    "no order of interactions", f"write the times of the interactions, or choose another order: {OTHER_ORDERS}", False
)
UNREADABLE = IssueKind("unreadable file", "write the file again as UTF-8 CSV, JSONL or Parquet", False)
BAD_TYPE = IssueKind("column of a wrong type", "cast the column and write the file again", False)
BAD_ENCODING = IssueKind("bad encoding", "save the file as UTF-8")
BROKEN_ROW = IssueKind("broken row", "repair or remove the row")
EMPTY_CELL = IssueKind("empty cell", "fill it or remove the row")
BAD_ID = IssueKind("bad id", "give a text of 1 to 512 bytes without control characters, or a whole number")
DUPLICATE_ITEM = IssueKind("duplicate item_id", "keep one row for each item")
DUPLICATE_USER = IssueKind("duplicate user_id", "keep one row for each user")
UNKNOWN_ITEM = IssueKind("unknown item", "add the item to items or remove the row")
BAD_TIME = IssueKind("unparsable time", "give seconds since 1970 or an ISO 8601 date and time")
BAD_RATING = IssueKind("bad rating", "give a finite number, or leave the cell empty", leaves_out=False)
BAD_VALUE = IssueKind("bad value", "give one text or a number")
LEFT_OUT_ITEM = IssueKind("interaction with an item that is left out", "fix the item's row")
BAD_ATTRIBUTE = IssueKind("bad attribute cell", "give a text, a number or a list of texts", leaves_out=False)
BAD_ATTRIBUTE_COLUMN = IssueKind("bad attribute column", "cast the column or remove it", leaves_out=False)
NO_LABEL = IssueKind("item without a label", "remove the item from items, name it in id2label, or use --adopt never")
FEW_ITEMS = IssueKind("too few items", "add items", False)
FEW_USERS = IssueKind(
    "too few users", "add users or interactions; two are trained on, one validates and one tests", False
)
_EMPTIED = {
    BAD_ATTRIBUTE: "; a bad attribute cell is emptied, its row stays",
    BAD_RATING: "; a bad rating is emptied, its row stays",
    BAD_ATTRIBUTE_COLUMN: "; a bad attribute column is left out, its rows stay",
}


class Issues:
    """The issues so far: a count of each kind, and the first locations."""

    def __init__(self) -> None:
        self._rows: Counter[IssueKind] = Counter()
        self._entries: Counter[IssueKind] = Counter()
        self._left_out: Counter[IssueKind] = Counter()
        self._shown: dict[IssueKind, list[str]] = {}
        self._last_row = ""

    def add(self, kind: IssueKind, location: str | Path, reason: str, rows: int | None = None) -> None:
        """Add an issue.

        Rows are read in order: a second issue of the same row is counted, but the row is left out once.

        Args:
            kind: what is wrong.
            location: the file with its line or row.
            reason: what was found and what is needed.
            rows: number of other rows that are left out because of this issue.
        """
        self._rows[kind] += rows or 1
        self._entries[kind] += 1
        if rows or not kind.leaves_out or str(location) != self._last_row:
            self._left_out[kind] += rows or 1
        if kind.leaves_out and not rows:
            self._last_row = str(location)
        shown = self._shown.setdefault(kind, [])
        if len(shown) < MAX_SHOWN:
            shown.append(f"{location}: {reason}")

    @property
    def skipped(self) -> dict[str, int]:
        """Name of a kind -> number of rows left out because of it (a row counts once) or emptied cells."""
        return {
            kind.name + ("" if kind.leaves_out else " (emptied)"): count
            for kind, count in self._left_out.items()
            if kind.skippable
        }

    @property
    def is_fatal(self) -> bool:
        """Whether one of them cannot be skipped."""
        return any(not kind.skippable for kind in self._rows)

    def report(self) -> str:
        """Every kind with its count, its remedy and the first locations; empty if there are no issues."""
        lines: list[str] = []
        for kind, shown in self._shown.items():
            count = self._rows[kind]
            lines.append(f"{kind.name}, {count:,} time{'s' if count > 1 else ''}: {kind.remedy}")
            lines += [f"  {line}" for line in shown]
            if hidden := self._entries[kind] - len(shown):
                lines.append(f"  ... and {hidden:,} more")
        return "\n".join(lines)

    def require_usable(self, *, skip: bool) -> None:
        """Return if there are no issues, or with `skip` if all of them can be skipped.

        Raises:
            DataError: the whole report.
        """
        if not self._rows or (skip and not self.is_fatal):
            return
        emptied = "".join(sentence for kind, sentence in _EMPTIED.items() if kind in self._rows)
        hint = "" if self.is_fatal else f"\n--on-error skip leaves these rows out and counts them{emptied}"
        raise DataError(f"the data cannot be used as it is\n{self.report()}{hint}")


class LeftOutItems:
    """Items whose rows are left out: their interactions are reported once for each item, not one by one."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._interactions: Counter[str] = Counter()

    def add(self, item: str, row: int) -> None:
        """Add an item whose row number `row` is left out."""
        self._rows.setdefault(item, row)

    def __contains__(self, item: object) -> bool:
        return item in self._rows

    def count_interaction(self, item: str) -> None:
        """Count an interaction with `item`, which must have been added."""
        self._interactions[item] += 1

    def report_to(self, issues: Issues, location_of: Callable[[int], str]) -> None:
        """Add an issue for each item with interactions, the item with the most first."""
        for item, count in self._interactions.most_common():
            reason = f"item_id {item!r} is left out, and {count:,} interaction{'s' if count > 1 else ''} with it"
            issues.add(LEFT_OUT_ITEM, location_of(self._rows[item]), reason, rows=count)


def has_label(item: str, labels: Collection[str] | None, location: str, issues: Issues) -> bool:
    """Whether a classifier has a row for `item` (always true without a classifier); reports the item if not."""
    if labels is None or item in labels:
        return True
    hint = known_spelling(item, labels)
    issues.add(NO_LABEL, location, f"item_id {item!r} is not among the labels in id2label of the checkpoint{hint}")
    return False
