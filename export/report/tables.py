"""The tables of a bundle's record, as cells: for the terminal, the model card and report.html."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import rich.table
from rich.console import Console
from rich.text import Text

from swiftrec.export.evaluate.tasks import SHARES, present
from swiftrec.export.report.rows import RecommenderRow, rows
from swiftrec.export.report.sentences import absent_tasks, failure_lines, teacher_lines
from swiftrec.export.schema.quality import Quality
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.parts import PARTS


class ReportTable(NamedTuple):
    """A title, the names of the columns, and the cells row by row; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def main_tables(quality: Quality) -> list[ReportTable]:
    """Quality by task, then size and speed."""
    shown = rows(quality)
    return [
        quality_table(f"NDCG@10, {quality.protocol}", shown),
        speed_table(f"Speed and size on {quality.machine}, one thread", shown),
    ]


def quality_table(title: str, rows: Sequence[RecommenderRow]) -> ReportTable:
    """NDCG@10 of every recommender on every task; no rows if there are no interactions."""
    measured = [row for row in rows if row.tasks]
    tasks = present({row.name: row.tasks for row in measured})
    cells = [[row.name, *(_cell(row.tasks.get(task)) for task in tasks)] for row in measured]
    return ReportTable(f"{title}; ± is half of the 95 % interval", ["", *tasks], cells)


def speed_table(title: str, rows: Sequence[RecommenderRow]) -> ReportTable:
    """Speed, size and shape of the teacher and of every variant; "-" if a speed was not measured."""
    header = ["", "texts/s", "x teacher", "ms at 1", "MB", "precision", "layers", "width", "device", "Pareto", "state"]
    cells = [
        [
            *(row.name, _number(row.texts_per_s, ",.0f"), _number(row.speedup, ".1f"), _number(row.ms_batch1, ".2f")),
            *(_number(row.megabytes, ".1f"), row.precision, _number(row.layers, "d"), _number(row.hidden, "d")),
            *(row.device, "yes" if row.variant and row.variant.on_front else "", row.state),
        ]
        for row in rows
        if row.kind != "baseline"
    ]
    return ReportTable(title, header, cells)


def share_table(rows: Sequence[RecommenderRow]) -> ReportTable:
    """How often the target is first or among the ten best, and the share of items that the request excludes."""
    measured = [row for row in rows if row.shares]
    columns = [(task, name) for task, names in SHARES.items() for name in names]
    columns = [(task, name) for task, name in columns if any(task in row.shares for row in measured)]
    cells = [[row.name, *(_cell(row.shares.get(task, {}).get(name)) for task, name in columns)] for row in measured]
    return ReportTable(
        "Shares; ± is half of the 95 % interval", ["", *(f"{task} {name}" for task, name in columns)], cells
    )


def cold_table(rows: Sequence[RecommenderRow], share: float) -> ReportTable:
    """*cold* and *ids* of each recommender, unadjusted, and with new items in the same share of the lists."""
    title = f"NDCG@10 on cold and ids, unadjusted, and with new items in {share:.2%} of the lists of ids"
    header = ["", "new items", "cold", "ids", "new items adjusted", "cold adjusted", "ids adjusted"]
    cells = [
        [
            *(row.name, f"{pair.own_share:.2%}", _cell(pair.own_cold), _cell(pair.own_ids)),
            *(f"{pair.share:.2%}", _cell(pair.cold), _cell(pair.ids)),
        ]
        for row in rows
        if (pair := row.cold_pair)
    ]
    return ReportTable(title, header, cells)


def list_table(rows: Sequence[RecommenderRow]) -> ReportTable:
    """What NDCG does not say about the lists of each recommender."""
    header = ["", "task", "Recall@10", "MRR", "coverage", "Gini", "diversity", "novelty (bits)", "head"]
    cells = []
    for row in rows:
        if lists := row.lists:
            shown = lists.exposure
            numbers = (shown.coverage, shown.gini, shown.diversity, shown.novelty, shown.by_popularity[0])
            measured = [_cell(lists.recall), _cell(lists.mrr), *(f"{number:.3f}" for number in numbers)]
            cells.append([row.name, lists.task, *measured])
    return ReportTable("Lists", header, cells)


def group_table(rows: Sequence[RecommenderRow]) -> ReportTable:
    """NDCG@10 of each recommender within each group of users."""
    by_column = {
        f"{row.name} ({task})": {(group.attribute, group.group): group for group in groups}
        for row in rows
        for task, groups in row.groups.items()
    }
    cells = []
    for pair in dict.fromkeys(pair for groups in by_column.values() for pair in groups):
        members = [groups.get(pair) for groups in by_column.values()]
        cases = next(str(group.cases) for group in members if group)
        cells.append([" ".join(pair), cases, *(_cell(group.ndcg if group else None) for group in members)])
    return ReportTable("NDCG@10 by group of users", ["", "users", *by_column], cells)


def part_table(quality: Quality) -> ReportTable:
    """What each part of a score contributes to the likelihood of the targets, by kind of request."""
    cells = []
    for group in quality.blend.groups:
        brings = [f"{group.contributions[p]:+.3f}" if p in group.contributions else "" for p in PARTS]
        cells.append([str(group), str(group.cases), f"{group.likelihood:.3f}", *brings])
    return ReportTable("Parts of a score", ["requests with", "cases", "log-likelihood", *PARTS], cells)


def show(console: Console, quality: Quality) -> None:
    """Print what stage `verify` measured: tasks, shares, new items, failed gates and defaults."""
    title = f"NDCG@10, {quality.protocol}, {quality.cases['warm']} users, {quality.cases['cold']} cold cases"
    shown = rows(quality)
    print_tables(console, [quality_table(title, shown), share_table(shown), cold_table(shown, quality.cold_share)])
    defaults = [f"Default on {device}: {default.why}" for device, default in quality.default.items()]
    for line in [*absent_tasks(quality), *teacher_lines(quality.teacher), *failure_lines(quality), *defaults]:
        console.print(f"  {line}", markup=False)


def print_tables(console: Console, tables: Iterable[ReportTable]) -> None:
    """Print the tables that have rows."""
    for table in tables:
        if table.rows:
            columns = [rich.table.Column(Text(name), no_wrap=not n) for n, name in enumerate(table.header)]
            printed = rich.table.Table(*columns, title=Text(table.title))  # Text: brackets are not markup
            for row in table.rows:
                printed.add_row(*map(Text, row))
            console.print(printed)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def _cell(figure: MeanInterval | None) -> str:
    return f"{figure.mean:.4f} ±{(figure.high - figure.low) / 2:.3f}" if figure else ""
