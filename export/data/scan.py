"""One pass over a user's tables: every row is checked and counted; items are passed on one by one.

Memory: an index of the ids, about 150 bytes an item, and 16 bytes an interaction (24 with ratings). At most
`_MAX_TEXTS` texts are sampled, and only the table of users is read as a whole.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.attributes import AttributeCounts
from swiftrec.export.data.cells import TableRow, is_missing, read_rows
from swiftrec.export.data.columns import (
    INTERACTIONS,
    ITEMS,
    RATING,
    TEXTS,
    TIMESTAMP,
    UNTIMED_INTERACTIONS,
    USERS,
    ColumnMap,
    Layout,
)
from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.data.interactions import InteractionLog, Interactions
from swiftrec.export.data.issues import (
    DUPLICATE_ITEM,
    DUPLICATE_USER,
    FEW_ITEMS,
    FEW_USERS,
    NO_COLUMN,
    NO_ORDER,
    UNKNOWN_ITEM,
    Issues,
    LeftOutItems,
    has_label,
)
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.profile import Profile, Spread, TextLengths, few_users, short_histories, tied_times
from swiftrec.export.data.repeats import ALLOW, EXCLUDE, Repeats
from swiftrec.export.data.split import MIN_INTERACTIONS, MIN_USERS
from swiftrec.export.data.tables import DataTable, find_table
from swiftrec.export.data.times import TimeStatistics
from swiftrec.export.data.user_groups import user_groups
from swiftrec.export.ids import known_spelling

MIN_ITEMS = 2
_MAX_TEXTS = 20_000
_TITLE_CHARS = 80  # of the text, which replace a missing title


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a folder is read.

    Args:
        needs_interactions: whether the table of interactions is required.
        labels: the items of a classifier; other items are reported. None: every item is allowed.
        repeats: whether a repeated interaction counts as one of those that a user needs.
        order: what decides which interaction of a user is first; times are read only if they do.
        columns: the flags NAME=COLUMN of `--column`.
    """

    needs_interactions: bool = True
    labels: Collection[str] | None = None
    repeats: Repeats = ALLOW
    order: Order = BY_TIME
    columns: Sequence[str] = ()

    @property
    def is_timed(self) -> bool:
        """Whether times decide the order."""
        return self.order == BY_TIME


DEFAULTS = LoadOptions()


class Scan:
    """One pass over a folder: each valid item is passed to `keep` once, issues are collected, the rest is counted."""

    def __init__(
        self,
        folder: Path,
        keep: Callable[[DatasetItem], object],
        options: LoadOptions = DEFAULTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._options, self._columns = folder, options, ColumnMap.parse(options.columns)
        self.issues, self.attributes = Issues(), AttributeCounts()
        self.interactions: Interactions = InteractionLog().sort()
        self.texts: list[str] = []
        self.groups: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self._text_count, self._rng = 0, random.Random(0)  # noqa: S311 (no secret)
        self._positions: dict[str, int] = {}
        self._row_numbers, self._lengths = array("q"), TextLengths()
        self._left_out, self._times = LeftOutItems(), TimeStatistics(clock())
        self._tables: list[DataTable] = []
        self._read_tables(keep)

    def _read_tables(self, keep: Callable[[DatasetItem], object]) -> None:
        if items := self._find("items", ITEMS):
            self._read_items(items, keep)
        layout = INTERACTIONS if self._options.is_timed else UNTIMED_INTERACTIONS
        if table := self._find("interactions", layout, optional=not self._options.needs_interactions):
            self._read_interactions(table)
        if items:
            self._left_out.report_to(self.issues, items.location)
        if table := self._find("users", USERS, optional=True):
            self.groups = user_groups(self._user_rows(table), self.interactions.user_ids)
        if table := self._find("texts", TEXTS, optional=True):
            self._read_texts(table)
        for flag in self._columns.unused():
            reason = f"--column {flag}: no table has the column {flag.partition('=')[2]}"
            self.issues.add(NO_COLUMN, self._folder, reason)
        for table in self._tables:
            self.warnings += [f"{table.path}: {sentence}" for sentence in table.conversions.sentences()]

    def _find(self, name: str, layout: Layout, *, optional: bool = False) -> DataTable | None:
        """The table `name`; None if there is none, which is reported unless it is optional."""
        table = find_table(self._folder, name, layout, self.issues, optional=optional, columns=self._columns)
        self._tables += [table] if table else []
        return table

    def profile(self) -> Profile:
        """The figures of the valid rows."""
        data = self.interactions
        return Profile(
            items=len(self._positions),
            attributes=self.attributes.sizes,
            text_words=self._lengths.spread(),
            users=len(data.user_ids),
            interactions=len(data),
            times=self._times.in_words(),
            repeated=data.repeated,
            repeats=self._options.repeats,
            ratings=data.rating_range,
            unrated=data.unrated,
            history_lengths=Spread.of(data.lengths),
            usable_users=self._usable_users(),
            used_items=data.used_items,
            tied_share=data.tied_share,
            texts=self._text_count,
            skipped=self.issues.skipped,
            warnings=tuple(self.warnings),
            caveats=tuple(self._caveats()),
            order=self._options.order,
        )

    def _counted(self) -> NDArray[np.int64]:
        """The number of interactions that count for each user."""
        return self.interactions.distinct_items if self._options.repeats == EXCLUDE else self.interactions.lengths

    def _usable_users(self) -> int:
        return int((self._counted() >= MIN_INTERACTIONS).sum())

    def _caveats(self) -> list[str]:
        """What makes quality figures uncertain; none if the data cannot be used anyway."""
        if self.issues.is_fatal:
            return []
        tied = tied_times(self.interactions.tied_share) if self._options.is_timed else []
        return [*few_users(self._usable_users()), *short_histories(self._counted()), *tied]

    def _read_items(self, table: DataTable, keep: Callable[[DatasetItem], object]) -> None:
        for row in read_rows(table):
            item = self._item(row)
            if item is not None:
                self._positions[item.id] = len(self._positions)
                self._row_numbers.append(row.number)
                self._lengths.add(item.text)
                self.attributes.add(item.attributes)
                keep(item)
        if not self.issues.is_fatal and len(self._positions) < MIN_ITEMS:
            reason = f"at least {MIN_ITEMS} items are needed, {len(self._positions)} can be used"
            self.issues.add(FEW_ITEMS, table.path, reason)

    def _item(self, row: TableRow) -> DatasetItem | None:
        key, text = row.id("item_id"), row.text("text")
        if key is None:
            return None
        if text is None or not has_label(key, self._options.labels, row.location, self.issues):
            self._left_out.add(key, row.number)
            return None
        if key in self._positions:
            first = row.table.line(self._row_numbers[self._positions[key]])
            row.report(DUPLICATE_ITEM, f"item_id {key!r} occurs twice, first in {first}")
            return None
        return DatasetItem(key, row.title() or text[:_TITLE_CHARS], text, row.attributes())

    def _read_interactions(self, table: DataTable) -> None:
        is_rated = table.has_values(RATING, is_missing)
        is_timed = self._options.is_timed and table.has_values(TIMESTAMP, is_missing)
        log = InteractionLog()
        for row in read_rows(table):
            user, key = row.id("user_id", log.users), row.id("item_id", self._positions)
            seconds = row.time(TIMESTAMP) if is_timed else 0.0
            position = None if key is None else self._position(row, key)
            if user is None or seconds is None:
                continue
            if position is not None:
                log.add(user, position, seconds, row.rating() if is_rated else None)
                if is_timed:
                    self._times.add(seconds, row.number)
            elif key is not None and key in self._left_out:
                self._left_out.count_interaction(key)
        self.interactions = log.sort()
        self._check_interactions(table, is_timed=is_timed)
        self.warnings += [f"{table.path}: {warning}" for warning in self._times.warnings(table.line)]

    def _position(self, row: TableRow, key: str) -> int | None:
        """The position of the item with this id; None if there is none, which is reported if its row is missing."""
        position = self._positions.get(key)
        if position is None and key not in self._left_out and self._positions:
            row.report(UNKNOWN_ITEM, f"item_id {key!r} is not in items{known_spelling(key, self._positions)}")
        return position

    def _check_interactions(self, table: DataTable, *, is_timed: bool) -> None:
        if not self.issues.is_fatal and self._options.is_timed and not self.interactions.has_order:
            self.issues.add(NO_ORDER, table.path, self._why_no_order(is_timed=is_timed))
        if not self.issues.is_fatal and self._usable_users() < MIN_USERS:
            need = f"at least {MIN_USERS} users with {MIN_INTERACTIONS} interactions are needed"
            have = f"found {self._usable_users()} (of {len(self.interactions.user_ids)} users)"
            ignored = self._options.repeats == EXCLUDE and self.interactions.repeated > 0
            hint = "; repeated ones count with --repeats allow only" if ignored else ""
            self.issues.add(FEW_USERS, table.path, f"{need}, {have}{hint}")

    def _why_no_order(self, *, is_timed: bool) -> str:
        if not is_timed:
            return f"column {TIMESTAMP} is empty in every row"
        if constant := self._times.constant():
            return f"column {TIMESTAMP} is {constant} in every row"
        return f"column {TIMESTAMP} has one time for each user, so it does not say which interaction was first"

    def _user_rows(self, table: DataTable) -> Iterator[dict[str, str]]:
        known, numbers = frozenset(self.interactions.user_ids), dict[str, int]()
        for row in read_rows(table):
            user = row.id("user_id")
            if user is None:
                continue
            if user in numbers:
                first = table.line(numbers[user])
                row.report(DUPLICATE_USER, f"user_id {user!r} occurs twice, first in {first}")
                continue
            numbers[user] = row.number
            yield row.groups() | {"user_id": user}
        if numbers and known and known.isdisjoint(numbers):
            first = next(iter(numbers))
            hint = known_spelling(first, known)
            self.warnings.append(f"{table.path}: no user_id is in interactions (the first, {first!r}, is not{hint})")

    def _read_texts(self, table: DataTable) -> None:
        """Sample texts uniformly (reservoir sampling, Vitter 1985)."""
        for row in read_rows(table):
            text = row.text("text")
            if text is None:
                continue
            self._text_count += 1
            if len(self.texts) < _MAX_TEXTS:
                self.texts.append(text)
            elif (slot := self._rng.randrange(self._text_count)) < _MAX_TEXTS:
                self.texts[slot] = text
