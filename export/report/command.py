"""`swiftrec report [--json]`: what was measured of the newest bundle, as tables or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic_settings import CliSuppress, SettingsConfigDict
from rich.console import Console

from swiftrec.export.config import BUNDLE_FLAGS, ExportSettings, JsonOutput, show_in_help
from swiftrec.export.errors import ExportError
from swiftrec.export.report.record_json import as_json
from swiftrec.export.report.rows import rows
from swiftrec.export.report.sentences import headline, remarks, served_lines
from swiftrec.export.report.tables import main_tables, print_tables, share_table
from swiftrec.export.schema.quality import Quality
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.settings_reader import read_settings

WIDTH = 300  # of the printed table, whatever the terminal's: one line for each recommender


class ReportSettings(ExportSettings, JsonOutput):
    """Print quality, speed and size of each recommender of the newest bundle.

    The bundle is named by --name, or by the flags that it was exported with; the other flags of the export are accepted
    and change nothing.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec report", cli_shortcuts={"as-json": "json"})

    stage: CliSuppress[None] = None


show_in_help(ReportSettings, {*BUNDLE_FLAGS, "as_json"})


def main(argv: list[str]) -> int:
    """Print what was measured of the newest bundle of that name.

    Raises:
        ExportError: there is no bundle.
    """
    settings = read_settings(ReportSettings, argv)
    quality = load_quality(settings.bundle)
    if settings.as_json:
        sys.stdout.write(json.dumps(as_json(quality), indent=1) + "\n")
        return 0
    console = Console(width=WIDTH)
    print_tables(console, [*main_tables(quality), share_table(rows(quality))])
    for line in [headline(quality), *served_lines(quality), *remarks(quality)]:
        console.print(line, markup=False, highlight=False)
    return 0


def load_quality(folder: Path) -> Quality:
    """The record of the newest bundle in `folder`.

    Raises:
        ExportError: there is none, or an older export wrote it.
    """
    try:
        bundle = load_bundle(folder)
        return Quality.model_validate(bundle.manifest.quality)
    except BundleError as error:
        raise ExportError(str(error)) from None
    except ValueError:
        raise ExportError(
            f"{bundle.folder}: its record is of an older export: run swiftrec export, or read its MODEL_CARD.md"
        ) from None
