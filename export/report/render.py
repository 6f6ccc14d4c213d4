"""Writes MODEL_CARD.md and report.html of a bundle from the templates in this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from swiftrec.export.evaluate.tasks import present
from swiftrec.export.report import charts, sentences, tables
from swiftrec.export.report.rows import rows
from swiftrec.export.schema.quality import Quality
from swiftrec.server.models.bundle import Manifest

_MODEL_CARD, _REPORT = "model_card.md.jinja", "report.html.jinja"


def write_card(path: Path, manifest: Manifest, quality: Quality) -> None:
    """Write the model card: Markdown."""
    _write(path, _MODEL_CARD, manifest, quality)


def write_report(path: Path, manifest: Manifest, quality: Quality) -> None:
    """Write the report: one HTML file that needs no other file and no network."""
    _write(path, _REPORT, manifest, quality)


def _write(path: Path, template: str, manifest: Manifest, quality: Quality) -> None:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _markdown_cell
    path.write_text(environment.get_template(template).render(_values(manifest, quality)), encoding="utf-8")


def _values(manifest: Manifest, quality: Quality) -> dict[str, Any]:
    """What the templates read."""
    return {
        "manifest": manifest,
        "quality": quality,
        "rows": rows(quality),
        "charts": charts,
        "tables": tables,
        "headline": sentences.headline(quality),
        "served": sentences.served_lines(quality),
        "remarks": [line for line in sentences.remarks(quality) if line],
        "below": sentences.below_a_gate(quality),
        "on_gpu": [v.name for v in quality.shipped if v.measured_on not in ("", "cpu")],
        "task_names": present(quality.tasks),
    }


def _markdown_cell(text: str) -> str:
    """A cell's text in a Markdown table, where a bar would end the cell."""
    return text.replace("|", "\\|")
