"""The tables of a bundle's record, as cells: for the terminal, the model card and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import rich.table
from rich.console import Console
from rich.text import Text

from swiftrec.export.evaluate.tasks import SHARES, present
from swiftrec.export.report.rows import Row, rows
from swiftrec.export.report.sentences import absent_tasks, failure_lines, teacher_lines
from swiftrec.export.schema.comparison import ColdPair
from swiftrec.export.schema.quality import Quality
from swiftrec.export.schema.record import Figure
from swiftrec.server.parts import PARTS

Shares = Mapping[str, Mapping[str, Mapping[str, Figure]]]
"""Recommender -> task -> name -> share."""


class Table(NamedTuple):
    """A title, the names of the columns, and the cells row by row; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def without_empty_columns(self) -> Table:
        """The same without the columns that have no cell with text."""
        kept = [n for n, name in enumerate(self.header) if n == 0 or any(row[n] for row in self.rows)]
        return Table(self.title, [self.header[n] for n in kept], [[row[n] for n in kept] for row in self.rows])


def recommender_table(quality: Quality) -> Table:
    """Shape, size, speed and NDCG@10 of every recommender."""
    tasks = present(quality.tasks)
    speed = ["layers", "width", "precision", "device", "MB", "texts/s", "ms at 1", "x teacher"]
    header = ["", "state", *speed, *tasks, "Pareto"]
    cells = [
        [row.name, row.state, *_facts(row), *(_short(row.tasks.get(task)) for task in tasks), _front(row)]
        for row in rows(quality)
    ]
    title = f"NDCG@10 ± half of the 95 % interval; {quality.protocol}; {quality.machine}, one thread"
    return Table(title, header, cells).without_empty_columns()


def task_table(title: str, tasks: Mapping[str, Mapping[str, Figure]]) -> Table:
    """NDCG@10 of each recommender on each task."""
    shown = present(tasks)
    return Table(f"{title}; ± is half of the 95 % interval", ["", *shown], _rows(tasks, shown))


def share_table(shares: Shares) -> Table:
    """How often the target is first or among the ten best, and the share of items that the request excludes."""
    columns = [(task, name) for task, names in SHARES.items() for name in names]
    columns = [(task, name) for task, name in columns if any(task in row for row in shares.values())]
    cells = [
        [recommender, *(_cell(row.get(task, {}).get(name)) for task, name in columns)]
        for recommender, row in shares.items()
    ]
    return Table("Shares; ± is half of the 95 % interval", ["", *(f"{task} {name}" for task, name in columns)], cells)


def cold_table(pairs: Mapping[str, ColdPair], share: float) -> Table:
    """*cold* and *ids* of each recommender, unadjusted, and with new items in the same share of the lists."""
    title = f"NDCG@10 on cold and ids, unadjusted, and with new items in {share:.2%} of the lists of ids"
    header = ["", "new items", "cold", "ids", "new items adjusted", "cold adjusted", "ids adjusted"]
    cells = [
        [
            *(name, f"{pair.own_share:.2%}", _cell(pair.own_cold), _cell(pair.own_ids)),
            *(f"{pair.share:.2%}", _cell(pair.cold), _cell(pair.ids)),
        ]
        for name, pair in pairs.items()
    ]
    return Table(title, header, cells)


def list_table(quality: Quality) -> Table:
    """What NDCG does not say about the lists of each recommender."""
    header = ["", "task", "Recall@10", "MRR", "coverage", "Gini", "diversity", "novelty (bits)", "head"]
    cells = []
    for name, lists in quality.lists.items():
        shown = lists.exposure
        numbers = (shown.coverage, shown.gini, shown.diversity, shown.novelty, shown.by_popularity[0])
        cells.append(
            [name, lists.task, _cell(lists.recall), _cell(lists.mrr), *(f"{number:.3f}" for number in numbers)]
        )
    return Table("Lists", header, cells)


def group_table(quality: Quality) -> Table:
    """NDCG@10 of each recommender within each group of users."""
    by_name = {name: {(g.attribute, g.group): g for g in groups} for name, groups in quality.groups.items() if groups}
    pairs = list(dict.fromkeys(pair for groups in by_name.values() for pair in groups))
    cells = []
    for pair in pairs:
        members = [groups.get(pair) for groups in by_name.values()]
        cases = next(str(group.cases) for group in members if group)
        cells.append([" ".join(pair), cases, *(_cell(group.ndcg if group else None) for group in members)])
    return Table("NDCG@10 by group of users", ["", "users", *by_name], cells)


def part_table(quality: Quality) -> Table:
    """What each part of a score contributes to the likelihood of the targets, by kind of request."""
    cells = []
    for group in quality.blend.groups:
        brings = [f"{group.contributions[p]:+.3f}" if p in group.contributions else "" for p in PARTS]
        cells.append([str(group), str(group.cases), f"{group.likelihood:.3f}", *brings])
    return Table("Parts of a score", ["requests with", "cases", "log-likelihood", *PARTS], cells)


def show(console: Console, quality: Quality) -> None:
    """Print what stage `verify` measured: tasks, shares, new items, failed gates and defaults."""
    title = f"NDCG@10, {quality.protocol}, {quality.cases['warm']} users, {quality.cases['cold']} cold cases"
    tables = [task_table(title, quality.tasks), share_table(quality.shares)]
    print_tables(console, [*tables, cold_table(quality.cold_pairs, quality.cold_share)])
    defaults = [f"Default on {device}: {default.why}" for device, default in quality.default.items()]
    for line in [*absent_tasks(quality), *teacher_lines(quality.teacher), *failure_lines(quality), *defaults]:
        console.print(f"  {line}", markup=False)


def print_tables(console: Console, tables: Iterable[Table]) -> None:
    """Print the tables that have rows."""
    for table in tables:
        if table.rows:
            columns = [rich.table.Column(Text(name), no_wrap=not n) for n, name in enumerate(table.header)]
            printed = rich.table.Table(*columns, title=Text(table.title))  # Text: brackets are not markup
            for row in table.rows:
                printed.add_row(*map(Text, row))
            console.print(printed)


def _facts(row: Row) -> list[str]:
    """Shape, size and speed; "-" if a variant's speed was not measured, empty for a baseline."""
    if row.kind == "baseline":
        return [""] * 8
    shape = [str(row.layers), str(row.hidden), row.precision, row.device, f"{row.megabytes:.1f}"]
    speed = ((row.texts_per_s, ".0f"), (row.ms_batch1, ".2f"), (row.speedup, ".1f"))
    return shape + [f"{value:{form}}" if value else "-" for value, form in speed]


def _front(row: Row) -> str:
    return "yes" if row.variant and row.variant.on_front else ""


def _rows(tasks: Mapping[str, Mapping[str, Figure]], shown: Sequence[str]) -> list[list[str]]:
    return [[name, *_figures(row, shown)] for name, row in tasks.items()]


def _figures(row: Mapping[str, Figure], tasks: Sequence[str]) -> list[str]:
    return [_cell(row.get(task)) for task in tasks]


def _short(figure: Figure | None) -> str:
    """A figure in few characters, for the table that has a column for every task."""
    return f"{figure.mean:.3f}±{(figure.high - figure.low) / 2:.3f}" if figure else ""


def _cell(figure: Figure | None) -> str:
    return f"{figure.mean:.4f} ±{(figure.high - figure.low) / 2:.3f}" if figure else ""
