"""The verification as a table, on screen and for the model card."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from export.evaluate.metrics import Figure

_TASKS = ("ids", "text", "query")


def show(console: Console, results: dict[str, dict[str, Figure]], overlap: dict[str, float]) -> None:
    """Print one row for each baseline, the teacher and each variant; ± is half of the 95 % interval."""
    table = Table(
        "", *_TASKS, "top-10", title="NDCG@10 on ids and text, precision@10 on query, top-10 as the teacher's"
    )
    for name, row in results.items():
        cells = [f"{row[t].mean:.4f} ±{(row[t].high - row[t].low) / 2:.3f}" if t in row else "" for t in _TASKS]
        table.add_row(name, *cells, f"{overlap[name]:.3f}" if name in overlap else "")
    console.print(table)


def markdown(tasks: dict[str, dict[str, dict[str, float]]]) -> str:
    """The same from the manifest's quality record."""
    lines = ["| | " + " | ".join(_TASKS) + " |", "|---|---|---|---|"]
    for name, row in tasks.items():
        cells = [str(Figure(**row[task])) if task in row else "" for task in _TASKS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
