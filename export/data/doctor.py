"""`swiftrec doctor DATA`: check a data set without training."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swiftrec.export.data.columns import COLUMN_HELP, ColumnFlags
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.profile import RATINGS, Profile
from swiftrec.export.data.repeats import EXCLUDE, Repeats
from swiftrec.export.data.scan import LoadOptions, Scan
from swiftrec.export.errors import DataError
from swiftrec.server.settings_reader import read_settings

_MIN_TESTED_ITEMS, _MAX_TESTED_ITEMS = 50, 1_000_000


class DoctorSettings(BaseSettings):
    """Check a data set without training: exit code 0 if an export could use it, 2 if not."""

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_EXPORT_",
        env_ignore_empty=True,
        cli_prog_name="swiftrec doctor",
        cli_kebab_case=True,
    )

    data: CliPositionalArg[Path] = Field(description="folder with items, interactions and, optionally, texts")
    repeats: Repeats = Field(EXCLUDE, description="the setting of the export: exclude or allow repeated interactions")
    order: Order = Field(
        BY_TIME, description="the setting of the export: what decides the order of a user's interactions"
    )
    column: ColumnFlags = Field([], description=COLUMN_HELP)


_CHECKED = LoadOptions(needs_interactions=False, repeats=EXCLUDE)


def main(argv: list[str]) -> int:
    """Print figures and issues; 0, or 2 if an export would stop."""
    settings = read_settings(DoctorSettings, argv)
    options = replace(_CHECKED, repeats=settings.repeats, order=settings.order, columns=settings.column)
    return examine(settings.data, Console(), options)


def examine(folder: Path, console: Console, options: LoadOptions = _CHECKED) -> int:
    """Print figures and issues of `folder`; 0, or 2 if an export would stop."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: give the one that holds items and interactions")
    scan = Scan(folder, lambda _: None, options)
    profile, report, is_fatal = scan.profile(), scan.issues.report(), scan.issues.is_fatal
    table = Table(show_header=False)
    for name, figure in profile.rows().items():
        table.add_row("would be skipped" if name == "skipped" else name, Text(figure))
    _print(console, str(folder))
    console.print(table)
    for remark in _remarks(profile, is_fatal=is_fatal):
        _print(console, remark)
    if not report:
        _print(
            console, f"no issues: ready for swiftrec export --data {shlex.quote(str(folder))}{_export_flags(options)}"
        )
        return 0
    _print(console, report)
    _print(console, "these must be fixed first" if is_fatal else "fix these, or use --on-error skip")
    return 2


def _print(console: Console, line: str) -> None:
    """Print a line as it is: names of files and columns may have brackets."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _remarks(profile: Profile, *, is_fatal: bool) -> Iterator[str]:
    """Sentences on the data set that are no issues."""
    if not _MIN_TESTED_ITEMS <= profile.items <= _MAX_TESTED_ITEMS:
        yield (
            f"exports are tested with {_MIN_TESTED_ITEMS} to {_MAX_TESTED_ITEMS:,} items: quality and memory with "
            "other numbers are unknown"
        )
    if profile.ratings:
        yield RATINGS
    yield from (f"warning: {warning}" for warning in (*profile.warnings, *profile.caveats))
    if not profile.interactions and not is_fatal:
        yield "no interactions: only a checkpoint that is already a recommender can be exported with these data"


def _export_flags(options: LoadOptions) -> str:
    """The flags of an export with these options; empty if every option has its default."""
    flags = [] if options.repeats == EXCLUDE else ["--repeats", options.repeats]
    flags += [] if options.order == BY_TIME else ["--order", options.order]
    flags += [word for column in options.columns for word in ("--column", column)]
    return f" {shlex.join(flags)}" if flags else ""
