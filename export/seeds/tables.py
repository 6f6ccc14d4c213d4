"""The figures of several seeds as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from swiftrec.export.evaluate.tasks import TASKS
from swiftrec.export.report.tables import ReportTable
from swiftrec.export.schema.comparison import Comparison
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.seeds.summary import Paired, SeedSpread, SeedsSummary, Spreads

_SAME = (
    "The seed changes training and what the evaluation draws; each user's last events and the cold items are the same "
    "for every seed."
)


def tables(summary: SeedsSummary, title: str) -> list[ReportTable]:
    """NDCG@10, shares, new items, shares of the teacher's that students keep, and paired differences, if there are any.

    Args:
        summary: what was measured.
        title: which export was measured.
    """
    seeds = f"seeds {', '.join(map(str, summary.seeds))}"
    spread = f"mean over {seeds} [lowest, highest]"
    cold = "NDCG@10 with new items in the same share of the lists of ids"
    kept = "Shares of the teacher's NDCG@10 that students keep"
    every = [
        _spreads(summary.tasks, f"{title}: NDCG@10, {spread}. {_SAME}"),
        _spreads(summary.shares, f"Shares, {spread}"),
        _spreads(summary.cold, f"{cold}, {spread}"),
        _spreads(summary.retained, f"{kept}, {spread}"),
        _paired(summary),
    ]
    return [table for table in every if table.rows]


def _spreads(rows: Spreads, title: str) -> ReportTable:
    columns = _columns(rows)
    cells = [[name, *(str(row.get(column, "")) for column in columns)] for name, row in rows.items()]
    return ReportTable(title, ["", *columns], cells)


def _columns(rows: Spreads) -> list[str]:
    """Tasks in their usual order, then the other columns."""
    every = list(dict.fromkeys(column for row in rows.values() for column in row))
    return [task for task in TASKS if task in every] + [column for column in every if column not in TASKS]


def _paired(summary: SeedsSummary) -> ReportTable:
    title = "Differences in NDCG@10 over the same cases, with the 95 % interval of each seed"
    header = ["", "minus", "task", *(f"seed {seed}" for seed in summary.seeds), "mean"]
    cells = []
    for paired in summary.paired:
        differences = [_difference(comparison, paired) for comparison in paired.by_seed]
        cells.append([paired.subject, paired.yardstick, paired.task, *differences, f"{paired.mean:+.4f}"])
    return ReportTable(title, header, cells)


def _difference(comparison: Comparison | None, paired: Paired) -> str:
    if comparison is None:
        return ""
    difference = comparison.difference
    name = "" if comparison.baseline == paired.yardstick else f" {comparison.baseline}"
    return f"{difference.mean:+.4f} [{difference.low:+.3f}, {difference.high:+.3f}]{name}"


def as_json(summary: SeedsSummary, export: Mapping[str, object]) -> dict[str, Any]:
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
        "paired": [_pair(comparison, summary.seeds) for comparison in summary.paired],
    }


def _rows(rows: Mapping[str, Mapping[str, SeedSpread]]) -> dict[str, dict[str, dict[str, float]]]:
    return {subject: {column: asdict(spread) for column, spread in row.items()} for subject, row in rows.items()}


def _pair(paired: Paired, seeds: Sequence[int]) -> dict[str, Any]:
    by_seed = {
        str(seed): {"baseline": comparison.baseline, **_figure(comparison.difference)}
        for seed, comparison in zip(seeds, paired.by_seed, strict=True)
        if comparison
    }
    names = {"subject": paired.subject, "yardstick": paired.yardstick, "task": paired.task}
    return {**names, "by_seed": by_seed, "mean": paired.mean}


def _figure(figure: MeanInterval) -> dict[str, float]:
    return {"mean": figure.mean, "low": figure.low, "high": figure.high}
