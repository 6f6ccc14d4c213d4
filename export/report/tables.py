"""The verification as tables on the screen."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.record import ColdPair, Quality
from swiftrec.export.evaluate.tasks import SHARES, present

COLD_COLUMNS = ("new items as ranked", "cold", "ids", "new items with offset", "cold", "ids")


def show(console: Console, quality: Quality) -> None:
    """Print the tasks' table, the gates that failed and the defaults."""
    console.print(tasks_table(quality))
    if quality.shares:
        console.print(shares_table(quality.shares))
    for line in absent_tasks(quality):
        console.print(f"  {line}", markup=False)
    if quality.cold_pairs:
        console.print(cold_table(quality.cold_pairs, quality.cold_share))
    for record in quality.variants:
        if record.trouble:
            console.print(f"  {record.variant.name} {record.state}: {record.trouble}", markup=False)
    if quality.teacher.remark:
        console.print(f"  teacher: {quality.teacher.remark}", markup=False)
    if quality.teacher.exception:
        console.print(f"  teacher shipped all the same (--allow-lossy): {quality.teacher.exception}", markup=False)
    for device, default in quality.default.items():
        console.print(f"  default on {device}: {default.why}", markup=False)


def cold_table(pairs: Mapping[str, ColdPair], share: float) -> Table:
    """One row for each subject: *cold* and *ids* as it ranks, and with new items in the same share of the lists."""
    title = f"NDCG@10 on cold and ids as ranked, and with new items in {share:.2%} of the lists of ids"
    table = Table("", *COLD_COLUMNS, title=title)
    for name, pair in pairs.items():
        own = [f"{pair.own_share:.2%}", *map(_cell, (pair.own_cold, pair.own_ids))]
        table.add_row(name, *own, f"{pair.share:.2%}", *map(_cell, (pair.cold, pair.ids)))
    return table


def tasks_table(quality: Quality) -> Table:
    """One row for each baseline, the teacher and each variant."""
    title = f"NDCG@10, {quality.protocol}, {quality.cases['warm']} users, {quality.cases['cold']} cold cases"
    return figures_table(title, quality.tasks)


def figures_table(title: str, tasks: Mapping[str, Mapping[str, Figure]]) -> Table:
    """One row for each subject, one column for each task; ± is half of the 95 % interval."""
    shown = present(tasks)
    table = Table("", *shown, title=title)
    for name, row in tasks.items():
        table.add_row(name, *(_cell(row[task]) if task in row else "" for task in shown))
    return table


def share_rows(
    shares: Mapping[str, Mapping[str, Mapping[str, Figure]]],
) -> tuple[list[str], list[tuple[str, list[Figure | None]]]]:
    """Column names such as "title first", and for each subject its name and figures."""
    columns = [(task, name) for task, names in SHARES.items() for name in names]
    columns = [(task, name) for task, name in columns if any(task in row for row in shares.values())]
    rows = [(subject, [row.get(task, {}).get(name) for task, name in columns]) for subject, row in shares.items()]
    return [f"{task} {name}" for task, name in columns], rows


def shares_table(shares: Mapping[str, Mapping[str, Mapping[str, Figure]]]) -> Table:
    """One row for each subject: how often the wanted item is first or among ten, and what was excluded and is shown."""
    names, rows = share_rows(shares)
    table = Table("", *names, title="Shares; ± is half of the 95 % interval")
    for subject, figures in rows:
        cells = [f"{f.mean:.3f} ±{(f.high - f.low) / 2:.3f}" if f else "" for f in figures]
        table.add_row(subject, *cells)
    return table


def absent_tasks(quality: Quality) -> list[str]:
    """A sentence for each task that the data set cannot have."""
    return [f"No task {task}: {why}." for task, why in quality.absent.items()]


def _cell(figure: Figure) -> str:
    return f"{figure.mean:.4f} ±{(figure.high - figure.low) / 2:.3f}"
