"""The charts of report.html; each is "" if the record has nothing to draw."""

from __future__ import annotations

from swiftrec.export.evaluate.baselines import POPULARITY, TRANSITIONS
from swiftrec.export.report.rows import rows
from swiftrec.export.schema.quality import TEACHER, Quality, TrainingCurve
from swiftrec.export.schema.variant import Variant
from swiftrec.plots import Bar, Line, ScatterPoint, bars, lines, points

_MODEL, _BASELINE = 0, 5  # colours
_TASK = "query"  # depends on the encoder most: titles are recognised as items, whatever the encoder
_CURVES = (("loss", "training loss"), ("validation_ndcg", "validation NDCG@10"))


def quality_by_speed(quality: Quality) -> str:
    """Every timed variant: its share of the teacher's quality by its speed."""
    y = f"Share of the teacher's NDCG@10 on {_TASK}" if quality.tasks else "Share of the checkpoint's ten best items"
    return points([p for v in quality.variants if (p := _point(quality, v))], "texts/s on one core", y, log_x=True)


def _point(quality: Quality, variant: Variant) -> ScatterPoint | None:
    share = variant.retained.get(_TASK) or variant.agreement.get("overlap")
    if share is None or not variant.is_timed:
        return None
    is_default, label = variant.name == quality.default["cpu"].name, variant.name
    label += " (default)" * is_default + " (not shipped)" * (not variant.shipped)
    return ScatterPoint(label, variant.texts_per_s_core, share.mean, share.low, share.high, _MODEL)


def learning_curves(quality: Quality) -> list[str]:
    """Loss and validation NDCG@10 by epoch of everything that was trained; each has a chart, as the losses differ."""
    charts = [
        _curve(curve, column, f"{name}: {label}")
        for name, curve in {"head": quality.curve, **quality.curves}.items()
        for column, label in _CURVES
    ]
    return [chart for chart in charts if chart]


def _curve(curve: TrainingCurve, column: str, label: str) -> str:
    values = [(float(row["epoch"] or 0), float(y)) for row in curve if (y := row.get(column)) is not None]
    return lines([Line(label, values)], "epoch", label) if len(values) > 1 else ""


def against_baselines(quality: Quality) -> str:
    """NDCG@10 on ids of the baselines and the teacher, whose results on ids all variants share."""
    shown = [row for row in rows(quality) if row.kind != "variant" and "ids" in row.tasks]
    shown.sort(key=lambda row: -row.tasks["ids"].mean)
    colours = {"teacher": _MODEL, "baseline": _BASELINE}
    figures = [(row.name, row.tasks["ids"], colours[row.kind]) for row in shown]
    return bars([Bar(name, f.mean, f.low, f.high, colour) for name, f, colour in figures], "NDCG@10 on ids")


def other_protocol(quality: Quality) -> str:
    """NDCG@10 on ids of the baselines under the other protocol."""
    drawn = [Bar(name, f.mean, f.low, f.high, _BASELINE) for name, f in quality.other.ndcg.items()]
    return bars(drawn, f"NDCG@10 on ids, protocol {quality.other.protocol}, {quality.other.cases} users")


def user_groups(quality: Quality) -> str:
    """NDCG@10 of the teacher on ids for each group of users."""
    groups = quality.groups.get(f"{TEACHER} (ids)", [])
    drawn = [
        Bar(f"{g.attribute} {g.group} ({g.cases} users)", g.ndcg.mean, g.ndcg.low, g.ndcg.high, _MODEL) for g in groups
    ]
    return bars(drawn, "NDCG@10 of the teacher on ids")


def popularity(quality: Quality) -> str:
    """How the shown items and the targets are spread over the catalogue, ordered by popularity."""
    shown = [n for n in (TEACHER, quality.default["cpu"].name, POPULARITY, TRANSITIONS) if n in quality.lists]
    drawn = [Line(name, _tenths(quality.lists[name].exposure.by_popularity)) for name in shown]
    if drawn and quality.targets_by_popularity:
        drawn.insert(0, Line("targets", _tenths(quality.targets_by_popularity)))
    return lines(drawn, "tenth of the catalogue, the most popular first", "share of the shown items")


def _tenths(shares: list[float]) -> list[tuple[float, float]]:
    return [(float(n), share) for n, share in enumerate(shares, 1)]
