"""The verification as a table, on screen and for the model card."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from export.evaluate.metrics import Figure

_TASKS = {"ids": "ids", "text": "text", "query": "query"}


def show(console: Console, results: dict[str, dict[str, Figure]], overlap: dict[str, float]) -> None:
    """Print one row for each baseline, the teacher and each variant."""
    table = Table(title="NDCG@10 on ids and text, precision@10 on query; leave-one-out, seen masked, 95 % intervals")
    for heading in ("", *_TASKS.values(), "top-10"):
        table.add_column(heading, no_wrap=True)
    for name, row in results.items():
        share = f"{overlap[name]:.3f}" if name in overlap else ""
        table.add_row(name, *(str(row[task]) if task in row else "" for task in _TASKS), share)
    console.print(table)


def markdown(tasks: dict[str, dict[str, dict[str, float]]]) -> str:
    """The same from the manifest's quality record."""
    lines = ["| | " + " | ".join(_TASKS.values()) + " |", "|---|---|---|---|"]
    for name, row in tasks.items():
        cells = [str(Figure(**row[task])) if task in row else "" for task in _TASKS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
