"""The verification as tables on the screen."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from export.evaluate.metrics import Figure
from export.evaluate.record import Quality
from export.evaluate.tasks import TASKS


def show(console: Console, quality: Quality) -> None:
    """Print the tasks' table, the gates that failed and the defaults."""
    console.print(tasks_table(quality))
    for record in quality.variants:
        if record.trouble:
            console.print(f"  {record.variant.name} {record.state}: {record.trouble}", markup=False)
    if quality.teacher.exception:
        console.print(f"  teacher shipped all the same (--allow-lossy): {quality.teacher.exception}", markup=False)
    for device, default in quality.default.items():
        console.print(f"  default on {device}: {default.why}", markup=False)


def tasks_table(quality: Quality) -> Table:
    """One row for each baseline, the teacher and each variant."""
    title = f"NDCG@10, {quality.protocol}, {quality.cases['warm']} users, {quality.cases['cold']} cold cases"
    return figures_table(title, quality.tasks)


def figures_table(title: str, tasks: Mapping[str, Mapping[str, Figure]]) -> Table:
    """One row for each subject, one column for each task; ± is half of the 95 % interval."""
    table = Table("", *TASKS, title=title)
    for name, row in tasks.items():
        cells = [f"{row[t].mean:.4f} ±{(row[t].high - row[t].low) / 2:.3f}" if t in row else "" for t in TASKS]
        table.add_row(name, *cells)
    return table
