"""The figures of several seeds as tables on the screen, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.record import Comparison
from swiftrec.export.evaluate.tasks import TASKS
from swiftrec.export.seeds.summary import Paired, Spread, Spreads, Summary

_SAME = (
    "The seed changes training and what the evaluation draws; each user's last events and the cold items are the same "
    "for every seed."
)


def tables(summary: Summary, title: str) -> list[Table]:
    """NDCG@10, shares, new items, shares of the teacher's that students keep, and paired differences; those there are.

    Args:
        summary: what was found.
        title: which export was measured.
    """
    seeds = f"seeds {', '.join(map(str, summary.seeds))}"
    spread = f"mean over {seeds} [lowest, highest]"
    cold = "NDCG@10 with new items in the same share of the lists of ids"
    kept = "Shares of the teacher's NDCG@10 that students keep"
    found = [
        _spreads(summary.tasks, f"{title}: NDCG@10, {spread}", _SAME),
        _spreads(summary.shares, f"Shares, {spread}"),
        _spreads(summary.cold, f"{cold}, {spread}"),
        _spreads(summary.retained, f"{kept}, {spread}"),
        _paired(summary),
    ]
    return [table for table in found if table.row_count]


def _spreads(rows: Spreads, title: str, caption: str = "") -> Table:
    columns = _columns(rows)
    table = Table("", *columns, title=Text(title), caption=caption or None)  # brackets are no markup
    for subject, row in rows.items():
        table.add_row(subject, *(str(row.get(column, "")) for column in columns))
    return table


def _columns(rows: Spreads) -> list[str]:
    """Tasks in their usual order, then the others as they come."""
    every = list(dict.fromkeys(column for row in rows.values() for column in row))
    return [task for task in TASKS if task in every] + [column for column in every if column not in TASKS]


def _paired(summary: Summary) -> Table:
    title = "Differences in NDCG@10 over the same cases, with the 95 % interval of each seed"
    table = Table("", "minus", "task", *(f"seed {seed}" for seed in summary.seeds), "mean", title=title)
    for paired in summary.paired:
        cells = [_difference(one, paired) for one in paired.by_seed]
        table.add_row(paired.subject, paired.yardstick, paired.task, *cells, f"{paired.mean:+.4f}")
    return table


def _difference(one: Comparison | None, paired: Paired) -> str:
    if one is None:
        return ""
    found = one.difference
    name = "" if one.baseline == paired.yardstick else f" {one.baseline}"
    return f"{found.mean:+.4f} [{found.low:+.3f}, {found.high:+.3f}]{name}"


def as_json(summary: Summary, export: Mapping[str, object]) -> dict[str, Any]:
    """The same under the names of the fields; `export` says which export was measured.

    `tasks`, `shares`, `cold` and `retained`: subject -> column -> mean, low and high over the seeds. `paired`: the
    differences in NDCG@10 of a subject to a yardstick on a task, by seed, with the baseline that the yardstick was.
    """
    names = ("tasks", "shares", "cold", "retained")
    spreads = {name: _rows(getattr(summary, name)) for name in names}
    return {
        **export,
        "seeds": summary.seeds,
        **spreads,
        "paired": [_pair(one, summary.seeds) for one in summary.paired],
    }


def _rows(rows: Mapping[str, Mapping[str, Spread]]) -> dict[str, dict[str, dict[str, float]]]:
    return {subject: {column: asdict(spread) for column, spread in row.items()} for subject, row in rows.items()}


def _pair(paired: Paired, seeds: Sequence[int]) -> dict[str, Any]:
    by_seed = {
        str(seed): {"baseline": one.baseline, **_figure(one.difference)}
        for seed, one in zip(seeds, paired.by_seed, strict=True)
        if one
    }
    names = {"subject": paired.subject, "yardstick": paired.yardstick, "task": paired.task}
    return {**names, "by_seed": by_seed, "mean": paired.mean}


def _figure(figure: Figure) -> dict[str, float]:
    return {"mean": figure.mean, "low": figure.low, "high": figure.high}
