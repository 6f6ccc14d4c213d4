"""report.html: one file that needs nothing else; the same record as the model card, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from swiftrec.export.evaluate.baselines import POPULARITY
from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.models_record import VariantRecord
from swiftrec.export.evaluate.record import TEACHER, Quality
from swiftrec.export.evaluate.tasks import present
from swiftrec.export.report import plots
from swiftrec.export.report.ladder import remarks, served_lines
from swiftrec.export.report.tables import COLD_COLUMNS, share_rows
from swiftrec.server.models.bundle import Manifest

_STYLE = """
:root { color-scheme: light dark; --ink: #1d232a; --paper: #fff; --line: #d9dee3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #15191d; --line: #39424b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; }
svg { width: 100%; height: auto; font-size: 12px; }
svg text { fill: var(--ink); }
.grid { stroke: var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { border-bottom: 1px solid var(--line); padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


def write_page(path: Path, manifest: Manifest, quality: Quality) -> None:
    """Write the page."""
    title = f"{manifest.name}, version {manifest.version}"
    measured = [_compared(quality), _groups(quality), _exposure(quality)] if quality.tasks else []
    served = "".join(f"<p>{escape(line)}</p>" for line in served_lines(quality))
    parts = [served, _ladder(quality), _curves(quality), *measured, _where(manifest)]
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>\n",
        encoding="utf-8",
    )


def _ladder(quality: Quality) -> str:
    points = [_point(v) for v in quality.variants if v.overlap is not None and v.variant.texts_per_s_core]
    y_name = "NDCG@10 on text, share of the teacher's" if quality.tasks else "share of the checkpoint's top ten"
    plot = plots.scatter(points, "texts per second on one core", y_name) if points else ""
    header = ["variant", "layers", "width", "MB", "texts/s", "ms at 1", "x teacher", *present(quality.tasks)]
    rows = [_row(record, quality) for record in quality.variants]
    words = "".join(f"<li>{escape(line)}</li>" for line in remarks(quality))
    note = (
        "The area of a point is the size of its graph; red ones are not shipped; the Pareto front is dashed. "
        f"Bars are 95 % intervals over {'users' if quality.tasks else 'texts'}."
    )
    return f"<h2>Quality, speed, size</h2><p>{note}</p>{plot}{_table(header, rows)}<ul>{words}</ul>"


def _point(record: VariantRecord) -> plots.Point:
    v, same = record.variant, record.overlap or 0.0
    text = record.retained.get("text") or record.agreement.get("overlap") or Figure(same, same, same)
    colour = plots.COLOURS[0] if record.shipped else plots.COLOURS[1]
    size = max(3.0, v.megabytes**0.5)
    return plots.Point(v.name, v.texts_per_s_core, text.mean, text.low, text.high, size, colour, record.on_front)


def _row(record: VariantRecord, quality: Quality) -> list[object]:
    v, row = record.variant, quality.tasks.get(record.variant.name, {})
    name = v.name if record.shipped else f"{v.name} (not shipped)"
    speed = [f"{v.texts_per_s_core:.0f}", f"{v.ms_batch1:.2f}"] if v.texts_per_s_core else ["-", "-"]
    speed.append(str(v.speedup_vs_teacher_pytorch or "-"))
    return [name, v.layers, v.hidden, v.megabytes, *speed, *(row.get(task, "") for task in present(quality.tasks))]


def _curves(quality: Quality) -> str:
    """Loss and validation NDCG by epoch of all that was trained, each on its own axes: losses differ in kind."""
    trained = {"head": quality.curve, **quality.curves}
    drawn = []
    for who, rows in trained.items():
        for name, label in (("loss", "training loss"), ("validation_ndcg", "validation NDCG@10")):
            points = [(float(row["epoch"] or 0), float(y)) for row in rows if (y := row.get(name)) is not None]
            if points:
                drawn.append(plots.lines([plots.Line(f"{who}: {label}", points)], "epoch", label))
    nothing = "<p>The fine-tuning that made this bundle wrote none.</p>"
    return f"<h2>Learning curves</h2>{''.join(drawn) or nothing}"


def _compared(quality: Quality) -> str:
    names = {v.variant.name for v in quality.variants}
    shown = [(n, row["ids"]) for n, row in quality.tasks.items() if "ids" in row and n not in names]
    plot = plots.rows([plots.Row(n, f.mean, f.low, f.high, _colour(n)) for n, f in shown], "NDCG@10 on ids")
    others = [plots.Row(n, f.mean, f.low, f.high) for n, f in quality.other.ndcg.items()]
    title = f"NDCG@10 on ids, protocol {quality.other.protocol}, {quality.other.cases} users"
    second = plots.rows(others, title) if others else ""
    tasks = present(quality.tasks)
    table = _table(["", *tasks], [[n, *(row.get(t, "") for t in tasks)] for n, row in quality.tasks.items()])
    facts = f"Protocol {quality.protocol}, {quality.cases['warm']} users, {quality.cases['cold']} cold cases."
    remark = f"<p>{escape(quality.other.remark)}</p>"
    return f"<h2>Against baselines</h2><p>{facts}</p>{plot}{table}{_shares(quality)}{_cold(quality)}{second}{remark}"


def _shares(quality: Quality) -> str:
    """How often the wanted item is first or among ten, where the record has it."""
    if not quality.shares:
        return ""
    names, rows = share_rows(quality.shares)
    return _table(["", *names], [[subject, *(f or "" for f in figures)] for subject, figures in rows])


def _cold(quality: Quality) -> str:
    if not quality.cold_pairs:
        return ""
    words = (
        "NDCG@10 on cold and ids as ranked, and with an offset on the scores of new items that gives them "
        f"{quality.cold_share:.2%} of the lists of ids, their share of the catalogue."
    )
    rows = [
        [name, f"{p.own_share:.2%}", p.own_cold, p.own_ids, f"{p.share:.2%}", p.cold, p.ids]
        for name, p in quality.cold_pairs.items()
    ]
    return f"<p>{words}</p>{_table(['', *COLD_COLUMNS], rows)}"


def _groups(quality: Quality) -> str:
    drawn = [
        plots.Row(f"{g.attribute} {g.group} ({g.cases})", g.ndcg.mean, g.ndcg.low, g.ndcg.high)
        for g in quality.groups.get(f"{TEACHER} (ids)", [])
    ]
    if not drawn:
        return "<h2>Groups of users</h2><p>The data names no groups of users.</p>"
    return f"<h2>Groups of users</h2>{plots.rows(drawn, 'NDCG@10 of the teacher on ids; in brackets the users')}"


def _exposure(quality: Quality) -> str:
    shown = [n for n in (TEACHER, quality.default["cpu"].name, POPULARITY, "transitions") if n in quality.lists]
    drawn = [plots.Line(n, list(enumerate(quality.lists[n].exposure.by_popularity, 1))) for n in shown]
    drawn.insert(0, plots.Line("what users took", list(enumerate(quality.wanted_by_popularity, 1))))
    plot = plots.lines(drawn, "tenth of the catalogue, the most popular first", "share of what is shown")
    header = ["", "task", "Recall@10", "MRR", "coverage", "Gini", "diversity", "novelty"]
    rows = [
        [
            *(name, of.task, of.recall, of.mrr, f"{of.exposure.coverage:.3f}", f"{of.exposure.gini:.3f}"),
            *(f"{of.exposure.diversity:.3f}", f"{of.exposure.novelty:.2f}"),
        ]
        for name, of in quality.lists.items()
    ]
    return f"<h2>Popularity and coverage</h2>{plot}{_table(header, rows)}"


def _where(manifest: Manifest) -> str:
    tools = ", ".join(f"{name} {version}" for name, version in manifest.tools.items())
    sources = "".join(
        f"<li>{escape(kind)}: {escape(s['source'])}. Licence: {escape(s['licence'])}.</li>"
        for kind, s in manifest.sources.items()
    )
    return f"<h2>Where</h2><p>{escape(manifest.machine)}, {manifest.created}. {escape(tools)}.</p><ul>{sources}</ul>"


def _colour(name: str) -> str:
    return plots.COLOURS[2] if name == TEACHER else plots.COLOURS[0]


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
