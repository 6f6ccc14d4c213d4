"""A user's own data: `items`, `interactions`, `users`, `texts`, each CSV, JSONL or Parquet, read as streams.

A table is one file, gzipped or not, or a folder of part files.

What stays in memory of n items and m events: an index of the ids, about 150 bytes an item, and 16 bytes an event
(24 with ratings).
Items go to disk one by one; of the texts at most `_MAX_TEXTS` are drawn; the table of users is read as a whole.
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

from swiftrec.export.data import caveats
from swiftrec.export.data.attributes import Attributes
from swiftrec.export.data.cells import (
    attribute_names,
    group_of,
    has_values,
    needed_id,
    needed_text,
    needed_time,
    rating_of,
    title_of,
    values_of,
)
from swiftrec.export.data.columns import ColumnMap
from swiftrec.export.data.dataset import Dataset, Item, ItemFile, line_of
from swiftrec.export.data.ids import known_spelling
from swiftrec.export.data.interactions import Events
from swiftrec.export.data.issues import FEW_ITEMS, FEW_USERS, NO_COLUMN, NO_ORDER, TWICE, UNKNOWN, USER_TWICE, Mistakes
from swiftrec.export.data.layout import (
    INTERACTIONS,
    ITEMS,
    RATING,
    TEXTS,
    TIMESTAMP,
    UNTIMED_INTERACTIONS,
    USERS,
    Layout,
)
from swiftrec.export.data.lost import Lost, has_label
from swiftrec.export.data.order import BY_TIME, UNORDERED, Order
from swiftrec.export.data.profile import Facts, Lengths, Spread
from swiftrec.export.data.repeats import ALLOW, EXCLUDE, Repeats
from swiftrec.export.data.rows import Cells, Table, find
from swiftrec.export.data.split import MIN_EVENTS, MIN_USERS
from swiftrec.export.data.times import TimeStatistics
from swiftrec.export.data.user_groups import user_groups

MIN_ITEMS = 2
_MAX_TEXTS = 20_000
_TITLE = 80  # characters of the text that stand in for a missing title


@dataclass(frozen=True, slots=True)
class Collected:
    """What was read: the data set, texts of users [at most 20,000], and the figures of both."""

    dataset: Dataset
    texts: list[str]
    facts: Facts


def read(
    folder: Path,
    out: Path,
    *,
    skip: bool = False,
    needs_interactions: bool = True,
    labels: Collection[str] | None = None,
    repeats: Repeats = ALLOW,
    order: Order = BY_TIME,
    columns: Sequence[str] = (),
) -> Collected:
    """Read `folder`, writing the items into `out` on the way; items that are not among `labels`, if given, are wrong.

    Items need item_id and text; title and any other column (an attribute; "|" separates values) may be there.
    Interactions need user_id, item_id and, if their `order` is by time, timestamp; a rating may be there. Texts need
    text. Users (user_id, attribute columns) are optional, too: quality is then reported for each group of users. Every
    event is read; `repeats` says which ones count where a user needs enough of them. `columns` are flags NAME=COLUMN.

    Raises:
        DataError: the whole report of what is wrong; with `skip` only if rows cannot just be left out.
    """
    with (out / "items.jsonl").open("w", encoding="utf-8") as file:
        scan = Scan(
            folder,
            lambda item: file.write(line_of(item)),
            needs_interactions=needs_interactions,
            labels=labels,
            repeats=repeats,
            order=order,
            columns=columns,
        )
    scan.mistakes.settle(skip=skip)
    dataset = Dataset(
        items=ItemFile(out / "items.jsonl"),
        histories=scan.events.histories(),
        nouns=["item"],
        probes=scan.attributes.probes(),
        source=f"{folder.name} (user's own)",
        licence="the user's own",
        times=scan.events.times() if order == BY_TIME else [],
        users=scan.groups,
        ratings=scan.events.ratings(),
        order=order,
    )
    dataset = dataset.without_order() if order == UNORDERED else dataset
    return Collected(dataset, scan.texts, scan.facts())


class Scan:
    """One pass over a folder: `keep` is given each sound item once, mistakes are noted, the rest is counted."""

    def __init__(
        self,
        folder: Path,
        keep: Callable[[Item], object],
        *,
        needs_interactions: bool = True,
        labels: Collection[str] | None = None,
        clock: Callable[[], float] = time.time,
        repeats: Repeats = ALLOW,
        order: Order = BY_TIME,
        columns: Sequence[str] = (),
    ) -> None:
        self._folder, self._columns = folder, ColumnMap.parse(columns)
        self._repeats: Repeats = repeats
        self._order: Order = order
        self.mistakes, self.attributes, self.events = Mistakes(), Attributes(), Events()
        self.texts: list[str] = []
        self.groups: list[dict[str, str]] = []
        self.warnings: list[str] = []
        self._texts_seen, self._rng = 0, random.Random(0)  # noqa: S311 (no secret)
        self._positions: dict[str, int] = {}
        self._lost, self._labels, self._times = Lost(), labels, TimeStatistics(clock())
        self._numbers, self._lengths = array("q"), Lengths()
        self._tables: list[Table] = []
        if items := self._find("items", ITEMS):
            self._read_items(items, keep)
            if not self.mistakes.is_fatal and len(self._positions) < MIN_ITEMS:
                few = f"at least {MIN_ITEMS} items are needed, {len(self._positions)} can be used"
                self.mistakes.add(FEW_ITEMS, items.path, few)
        layout = INTERACTIONS if order == BY_TIME else UNTIMED_INTERACTIONS
        if table := self._find("interactions", layout, optional=not needs_interactions):
            self._read_events(table)
            self.warnings += [f"{table.path}: {warning}" for warning in self._times.warnings(table.line)]
        if items:
            self._lost.note(self.mistakes, items.where)
        if table := self._find("users", USERS, optional=True):
            self.groups = user_groups(self._user_rows(table), self.events.users)
        if table := self._find("texts", TEXTS, optional=True):
            self._read_texts(table)
        for flag in self._columns.unused():
            self.mistakes.add(NO_COLUMN, folder, f"--column {flag}: no table has the column {flag.partition('=')[2]}")
        for table in self._tables:
            self.warnings += [f"{table.path}: {sentence}" for sentence in table.conversions.sentences()]

    def _find(self, name: str, layout: Layout, *, optional: bool = False) -> Table | None:
        """The table `name`; None if there is none, which is noted unless it is optional."""
        table = find(self._folder, name, layout, self.mistakes, optional=optional, columns=self._columns)
        self._tables += [table] if table else []
        return table

    def facts(self) -> Facts:
        """The figures of what was kept."""
        lengths = self.events.lengths
        return Facts(
            items=len(self._positions),
            attributes=self.attributes.sizes,
            text_words=self._lengths.spread(),
            users=len(lengths),
            events=len(self.events),
            times=self._times.in_words(),
            repeated=self.events.repeated(),
            repeats=self._repeats,
            ratings=self.events.rating_range(),
            unrated=self.events.unrated(),
            history_events=Spread.of(lengths),
            usable_users=self._usable_users(),
            used_items=self.events.used_items(),
            tied_share=self.events.tied(),
            texts=self._texts_seen,
            skipped=self.mistakes.skipped,
            warnings=tuple(self.warnings),
            caveats=self._caveats(),
            order=self._order,
        )

    def _counted(self) -> NDArray[np.int64]:
        """How many events of each user count."""
        return self.events.different() if self._repeats == EXCLUDE else self.events.lengths

    def _usable_users(self) -> int:
        return int((self._counted() >= MIN_EVENTS).sum())

    def _caveats(self) -> tuple[str, ...]:
        """What makes figures uncertain; nothing where nothing can be measured anyway."""
        if self.mistakes.is_fatal:
            return ()
        found = [*caveats.few_users(self._usable_users()), *caveats.short_histories(self._counted())]
        found += caveats.tied_times(self.events.tied()) if self._order == BY_TIME else []
        return tuple(found)

    def _leaves_out(self) -> bool:
        """Whether there are events that do not count."""
        return self._repeats == EXCLUDE and self.events.repeated() > 0

    def _read_items(self, table: Table, keep: Callable[[Item], object]) -> None:
        for number, row in table.rows():
            item = self._item(table, number, row)
            if item is not None:
                self._positions[item.id] = len(self._positions)
                self._numbers.append(number)
                self._lengths.add(item.text)
                self.attributes.add(item.attributes)
                keep(item)

    def _item(self, table: Table, number: int, row: Cells) -> Item | None:
        key, text = needed_id(table, number, row, "item_id"), needed_text(table, number, row, "text")
        if key is None:
            return None
        if text is None or not has_label(key, self._labels, table.where(number), self.mistakes):
            self._lost.add(key, number)
            return None
        if key in self._positions:
            first = table.line(self._numbers[self._positions[key]])
            self.mistakes.add(TWICE, table.where(number), f"item_id {key!r} is there twice, first in {first}")
            return None
        names = attribute_names(table, number, row)
        attributes = {name: values for name in names if (values := values_of(table, number, row, name))}
        return Item(key, title_of(table, number, row) or text[:_TITLE], text, attributes)

    def _read_events(self, table: Table) -> None:
        is_rated, is_timed = has_values(table, RATING), self._order == BY_TIME and has_values(table, TIMESTAMP)
        for number, row in table.rows():
            user, key = needed_id(table, number, row, "user_id"), needed_id(table, number, row, "item_id")
            seconds = needed_time(table, number, row, TIMESTAMP) if is_timed else 0.0
            item = self._positions.get(key) if key else None
            is_lost = item is None and key in self._lost
            if key and item is None and not is_lost and self._positions:
                near = known_spelling(key, self._positions)
                self.mistakes.add(UNKNOWN, table.where(number), f"item_id {key!r} is not in items{near}")
            if user is None or seconds is None:
                continue
            if item is not None:
                self.events.add(user, item, seconds, rating_of(table, number, row) if is_rated else None)
                if is_timed:
                    self._times.add(seconds, number)
            elif key is not None and is_lost:
                self._lost.take(key)
        if not self.mistakes.is_fatal and self._order == BY_TIME and not self.events.has_order():
            self.mistakes.add(NO_ORDER, table.path, self._no_order(is_timed=is_timed))
        if not self.mistakes.is_fatal and self._usable_users() < MIN_USERS:
            few = f"at least {MIN_USERS} users with {MIN_EVENTS} interactions are needed, found {self._usable_users()}"
            once = "; repeated ones count with --repeats allow only" if self._leaves_out() else ""
            self.mistakes.add(FEW_USERS, table.path, f"{few} (of {len(self.events.lengths)} users){once}")

    def _no_order(self, *, is_timed: bool) -> str:
        """Why the column of times says nothing of the order."""
        if not is_timed:
            return f"column {TIMESTAMP} is empty in every row"
        if constant := self._times.constant():
            return f"column {TIMESTAMP} is {constant} in every row"
        return f"column {TIMESTAMP} has one time for each user, so it does not say which interaction was first"

    def _user_rows(self, table: Table) -> Iterator[Cells]:
        users, rows = frozenset(self.events.users), dict[str, int]()
        for number, row in table.rows():
            user = needed_id(table, number, row, "user_id")
            if user is None:
                continue
            if user in rows:
                reason = f"user_id {user!r} is there twice, first in {table.line(rows[user])}"
                self.mistakes.add(USER_TWICE, table.where(number), reason)
                continue
            rows[user] = number
            names = attribute_names(table, number, row)
            yield {name: group_of(table, number, row, name) for name in names} | {"user_id": user}
        if rows and users and users.isdisjoint(rows):
            first = next(iter(rows))
            near = known_spelling(first, users)
            self.warnings.append(f"{table.path}: no user_id is in interactions (the first, {first!r}, is not{near})")

    def _read_texts(self, table: Table) -> None:
        """Draw texts evenly (reservoir sampling, Vitter 1985)."""
        for number, row in table.rows():
            text = needed_text(table, number, row, "text")
            if text is None:
                continue
            self._texts_seen += 1
            if len(self.texts) < _MAX_TEXTS:
                self.texts.append(text)
            elif (place := self._rng.randrange(self._texts_seen)) < _MAX_TEXTS:
                self.texts[place] = text
