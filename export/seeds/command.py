"""`swiftrec export seeds`: run the export with each seed, and print the spread of its figures."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from swiftrec.export.job import Job
from swiftrec.export.report.command import load_quality
from swiftrec.export.report.tables import print_tables
from swiftrec.export.seeds.records import of_seed
from swiftrec.export.seeds.settings import SeedsSettings
from swiftrec.export.seeds.summary import Measured, SeedsSummary
from swiftrec.export.seeds.tables import as_json, tables
from swiftrec.export.stages.runner import run_all
from swiftrec.export.stages.teacher import teacher_comparison
from swiftrec.server.settings_reader import read_settings

_WIDTH = 320  # of the printed tables, whatever the terminal's: one line for each recommender


def main(argv: list[str]) -> int:
    """Print tables, or JSON with --json; progress goes to stderr.

    Raises:
        ExportError: a stage of a seed failed; what is finished stays, for all seeds.
    """
    settings = read_settings(SeedsSettings, argv)
    summary = SeedsSummary.of([_measure(settings, number) for number in range(len(settings.seeds))])
    if settings.as_json:
        export = {"name": settings.name, "preset": settings.preset, "protocol": settings.protocol}
        sys.stdout.write(json.dumps(as_json(summary, export), indent=1) + "\n")
        return 0
    print_tables(Console(width=_WIDTH), tables(summary, f"{settings.name}, {settings.protocol}"))
    return 0


def _measure(settings: SeedsSettings, number: int) -> Measured:
    """Run the stale stages of one seed; `number` is its position among the seeds."""
    seed = settings.seeds[number]
    job = Job(of_seed(settings, seed))
    job.console.print(f"[bold]seed {seed}[/bold] ({number + 1} of {len(settings.seeds)}), in {job.root}")
    teacher = teacher_comparison(job)
    if not settings.whole:
        return Measured(seed, teacher)
    run_all(job)
    return Measured(seed, teacher, load_quality(job.settings.bundle))
