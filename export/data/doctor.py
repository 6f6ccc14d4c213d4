"""`swiftrec doctor DATA`: check a data set without training."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swiftrec.export.data.columns import COLUMN_HELP, ColumnFlags
from swiftrec.export.data.loader import Scan
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.profile import RATINGS
from swiftrec.export.data.repeats import EXCLUDE, Repeats
from swiftrec.export.errors import DataError
from swiftrec.server.config import read_settings

_FEWEST, _MOST = 50, 1_000_000


class DoctorSettings(BaseSettings):
    """Check a data set without training: exit code 0 if an export could use it, 2 if not."""

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_EXPORT_",
        env_ignore_empty=True,
        cli_prog_name="swiftrec doctor",
        cli_kebab_case=True,
    )

    data: CliPositionalArg[Path] = Field(description="folder with items, interactions and, optionally, texts")
    repeats: Repeats = Field(EXCLUDE, description="as the export is to be told: exclude or allow repeated interactions")
    order: Order = Field(BY_TIME, description="as the export is to be told: what the order of a user's interactions is")
    column: ColumnFlags = Field([], description=COLUMN_HELP)


def main(argv: list[str]) -> int:
    """Print figures and every kind of mistake; 0, or 2 if an export would stop."""
    settings = read_settings(DoctorSettings, argv)
    return examine(settings.data, Console(), settings.repeats, settings.order, settings.column)


def examine(
    folder: Path,
    console: Console,
    repeats: Repeats = EXCLUDE,
    order: Order = BY_TIME,
    columns: Sequence[str] = (),
) -> int:
    """Print what `folder` holds; 0, or 2 if an export would stop."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: give the one that holds items and interactions")
    scan = Scan(folder, lambda _: None, needs_interactions=False, repeats=repeats, order=order, columns=columns)
    facts, report = scan.facts(), scan.mistakes.report()
    console.print(str(folder), markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    for name, figure in facts.rows().items():
        table.add_row("would be skipped" if name == "skipped" else name, Text(figure))  # brackets are no markup
    console.print(table)
    if not _FEWEST <= facts.items <= _MOST:
        console.print(f"exports are tried with {_FEWEST} to {_MOST:,} items: expect little of figures or memory beyond")
    if facts.ratings:
        console.print(RATINGS, soft_wrap=True)
    for warning in (*facts.warnings, *facts.caveats):
        console.print(f"warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    if not facts.events and not scan.mistakes.is_fatal:
        console.print("no interactions: only a checkpoint that is a recommender already can be exported from this")
    if not report:
        ready = f"no mistakes: ready for make export DATA=...{_export_flags(repeats, order, columns)}"
        console.print(ready, markup=False, highlight=False, soft_wrap=True)
        return 0
    console.print(report, markup=False, highlight=False, soft_wrap=True)
    verdict = "must be put right first" if scan.mistakes.is_fatal else "put these right, or go on with --on-error skip"
    console.print(verdict, markup=False)
    return 2


def _export_flags(repeats: Repeats, order: Order, columns: Sequence[str]) -> str:
    """The variable of make for the export that was checked for; empty where every setting is the default."""
    flags = [] if repeats == EXCLUDE else ["--repeats", repeats]
    flags += [] if order == BY_TIME else ["--order", order]
    flags += [word for column in columns for word in ("--column", column)]
    return f" EXPORT_FLAGS={shlex.quote(shlex.join(flags))}" if flags else ""
