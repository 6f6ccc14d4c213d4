"""`swiftrec report [--json]`: the ladder of the newest bundle as one table, or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.order import BY_TIME, in_words
from swiftrec.export.errors import ExportError
from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.models_record import TeacherRecord, VariantRecord
from swiftrec.export.evaluate.record import FROZEN, FROZEN_POPULAR, TEACHER, Quality
from swiftrec.export.evaluate.tasks import TASKS, present
from swiftrec.export.report.rows import as_json
from swiftrec.export.report.tables import absent_tasks, shares_table
from swiftrec.export.variants import Variant
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import load_bundle

WIDTH = 260  # of the printed table, whatever the terminal: a rung is one line


def report(settings: ExportSettings) -> None:
    """Print what stage `verify` found for the newest bundle of that name.

    Raises:
        ExportError: there is no bundle.
    """
    quality = load_quality(settings.bundle)
    if settings.as_json:
        sys.stdout.write(json.dumps(as_json(quality), indent=1) + "\n")
        return
    console = Console(width=WIDTH)
    console.print(table(quality))
    if quality.shares:
        console.print(shares_table(quality.shares))
    for line in [*served_lines(quality), *remarks(quality)]:
        console.print(line, markup=False, highlight=False)


def load_quality(folder: Path) -> Quality:
    """The record of the newest bundle in `folder`.

    Raises:
        ExportError: there is none, or an older export wrote it.
    """
    try:
        return Quality.model_validate(load_bundle(folder).manifest.quality)
    except BundleError as error:
        raise ExportError(str(error)) from None
    except ValueError:
        raise ExportError(f"{folder}: the newest bundle comes from an older export: run make export") from None


def table(quality: Quality) -> Table:
    """The ladder: baselines, the teacher, every variant that is shipped, and those that are not."""
    title = f"NDCG@10 with half of its 95 % interval; {quality.protocol}; {quality.machine}, one thread"
    shown_tasks = present(quality.tasks)
    shown = Table(
        Column("", no_wrap=True),
        "layers",
        "width",
        "precision",
        "MB",
        "texts/s",
        "ms",
        "x teacher",
        *shown_tasks,
        "",
        title=title,
    )
    teacher = quality.teacher
    for name, row in quality.tasks.items():
        if name == TEACHER:
            speed = f"{teacher.texts_per_s_core:.0f}" if teacher.texts_per_s_core else "-"
            facts = [str(teacher.layers), str(teacher.hidden), "PyTorch", f"{teacher.megabytes:.0f}", speed, "-", "1.0"]
            shown.add_row(name, *facts, *_cells(row, shown_tasks))
        elif name not in {v.variant.name for v in quality.variants}:
            shown.add_row(name, *[""] * 7, *_cells(row, shown_tasks))
    for record in quality.variants:
        shown.add_row(
            record.variant.name,
            *_facts(record),
            *_cells(quality.tasks.get(record.variant.name, {}), shown_tasks),
            _state(record, quality),
        )
    return shown


def _facts(record: VariantRecord) -> list[str]:
    v = record.variant
    speed = [f"{v.texts_per_s_core:.0f}", f"{v.ms_batch1:.2f}"] if v.texts_per_s_core else ["-", "-"]
    ratio = f"{v.speedup_vs_teacher_pytorch:.1f}" if v.speedup_vs_teacher_pytorch else "-"
    return [str(v.layers), str(v.hidden), v.precision, f"{v.megabytes:.1f}", *speed, ratio]


def _cells(row: dict[str, Figure], tasks: list[str]) -> list[str]:
    return [f"{row[t].mean:.3f}±{(row[t].high - row[t].low) / 2:.3f}" if t in row else "" for t in tasks]


def _state(record: VariantRecord, quality: Quality) -> str:
    if devices := quality.devices_of(record.variant.name):
        return f"default ({', '.join(devices)})"
    return "" if record.shipped else "not shipped"


def _teacher(teacher: TeacherRecord) -> list[str]:
    """Its gates, those that could not be measured, and what was excused."""
    lines = [f"teacher: {g.gate} {g.value:.3f} at the upper end (at least {g.threshold})" for g in teacher.gates]
    if teacher.remark:
        lines.append(f"teacher: {teacher.remark}")
    if teacher.exception:
        lines.append(f"teacher is shipped all the same (--allow-lossy): {teacher.exception}")
    return lines


def _cold(quality: Quality) -> list[str]:
    """Cold and ids as a pair, of what stands on the untouched encoder, the teacher and the default."""
    shown = (FROZEN, FROZEN_POPULAR, TEACHER, quality.default["cpu"].name)
    return [f"{name}: {quality.cold_pairs[name]}" for name in shown if name in quality.cold_pairs]


def _rounds(variant: Variant) -> str:
    """How far the rounds of the measurement lie apart; empty if nobody kept them."""
    if variant.texts_per_s_range is None or variant.speedup_range is None:
        return ""
    (slowest, fastest), (least, most) = variant.texts_per_s_range, variant.speedup_range
    speed = f"{variant.texts_per_s_core:,.0f} texts/s [{slowest:,.0f}, {fastest:,.0f}]"
    ratio = f"{variant.speedup_vs_teacher_pytorch:.1f}x the PyTorch teacher [{least:.1f}, {most:.1f}]"
    return f"{variant.name}: {speed}, {ratio}: median and [lowest, highest] round"


def served_lines(quality: Quality) -> list[str]:
    """Which metrics are of which model, and how alike the two answer; nothing without a second model."""
    final = quality.final
    return [line for line in (final.figures, final.likeness) if line] if final else []


def remarks(quality: Quality) -> list[str]:
    """The sentences under the table: lost to baselines, cold, shares of the teacher, rounds, refusals, defaults."""
    lines = [*quality.warnings, *absent_tasks(quality), *_teacher(quality.teacher), *_cold(quality)]
    if quality.order != BY_TIME:
        lines.insert(0, f"Order of a user's interactions: {in_words(quality.order)}.")
    for record in quality.variants:
        if record.retained:
            kept = ", ".join(f"{task} {record.retained[task]}" for task in TASKS[1:] if task in record.retained)
            lines.append(f"{record.variant.name} keeps of the teacher's: {kept}; top ten {record.overlap:.3f}")
        elif record.agreement:
            kept = ", ".join(f"{gate} {figure}" for gate, figure in record.agreement.items())
            lines.append(f"{record.variant.name} agrees with the original checkpoint: {kept}")
        elif record.gates:
            lines.append(f"{record.variant.name}: " + ", ".join(f"{g.gate} {g.value:.3f}" for g in record.gates))
    lines += [line for record in quality.variants if (line := _rounds(record.variant))]
    lines += [f"{r.variant.name}: {r.remark}" for r in quality.variants if r.remark]
    lines += [f"{r.variant.name} is {r.state}: {r.trouble}" for r in quality.variants if r.trouble]
    lines += [f"Default on {device}: {default.why}" for device, default in quality.default.items()]
    if quality.pieces and quality.pieces.kept < quality.pieces.of:
        lines.append(f"The students know {quality.pieces} (--vocabulary).")
    lines += [f"{ranker}." for ranker in quality.rankers]
    if quality.packaged:
        lines.append(f"The packaged bundle behind the server's pipeline: {quality.packaged}.")
    other = quality.other
    if other.ndcg:
        figures = ", ".join(f"{name} {figure}" for name, figure in other.ndcg.items())
        lines.append(f"Other protocol ({other.protocol}, {other.cases} users), NDCG@10 on ids: {figures}.")
    return [*lines, other.remark]
