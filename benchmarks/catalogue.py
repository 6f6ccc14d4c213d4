"""`swiftrec bench catalogue`: the catalogue from 1,000 to 1,000,000 items, exact against approximate.

The whole score is measured, boosts of memory and words included, for requests with a history, a query or both; half of
the queries are titles, the others words of texts.

Each size runs in a process of its own, through the whole pipeline of a real bundle of which only the catalogue is
synthetic. The same requests go alternately to it and to a catalogue of 2,000 items, so that a machine that drifts moves
both.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.catalogue_trial import WARM, Trial, resident_mb
from swiftrec.benchmarks.suite import apart
from swiftrec.benchmarks.suite.joined import join
from swiftrec.benchmarks.suite.settings import RESULTS
from swiftrec.benchmarks.synthetic import histories, make_bundle
from swiftrec.benchmarks.texts import texts
from swiftrec.server.catalogue.catalogue import NARROW
from swiftrec.server.catalogue.items import ItemTable
from swiftrec.server.models.bundle import find_bundle, load_bundle
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender

BASE_ITEMS = 2_000
_WORDS = 8  # of a query that is no title


class CatalogueSettings(BaseSettings):
    """Recall, speed, memory and build time of the catalogue's index, by its size and under filters."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench catalogue", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    items: list[int] = Field([1_000, 10_000, 100_000, 1_000_000], description="sizes of the catalogue")
    users: int = Field(100, ge=2 * WARM, description="users that are asked for")
    repeats: int = Field(3, ge=1, description="rounds of whole Recommends")
    narrow: int = Field(NARROW, ge=0, description="allowed items up to which a search stays exact despite the index")
    seed: int = Field(7, description="of items, users and queries")


def run(settings: CatalogueSettings) -> int:
    """Measure each size and write the table; 1 if it ended before the last size, its rows are marked `partial` then."""
    bundle = BundleId.of(load_bundle(settings.bundle).manifest)
    if len(settings.items) == 1:
        rows, reason = _one_size(settings), ""
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run as Ctrl-C does
        rows, reason = _each_size(settings)
    rows = [row | {"partial": reason} for row in rows] if reason else rows
    report.write(apart.catalogue(rows), {"bundle": bundle.fields(), "catalogue": rows, "partial": reason})
    if reason:
        sys.stderr.write(f"benchmarks catalogue: partial: {reason}\n")
    if rows and len(settings.items) > 1:
        join("catalogue", rows, RESULTS, bundle)
    return 1 if reason else 0


def _each_size(settings: CatalogueSettings) -> tuple[list[dict[str, Any]], str]:
    """Rows, and why they are not all."""
    rows: list[dict[str, Any]] = []
    try:
        return rows, _measure_sizes(settings, rows)
    except KeyboardInterrupt:
        return rows, "it was interrupted"


def _measure_sizes(settings: CatalogueSettings, rows: list[dict[str, Any]]) -> str:
    """Add the rows of each size; why one ended early, if it did."""
    for items in settings.items:
        command = [sys.executable, "-m", "swiftrec.benchmarks", "catalogue", "--items", str(items)]
        for name in ("bundle", "users", "repeats", "narrow", "seed"):
            command += [f"--{name}", str(getattr(settings, name))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        if done.returncode:
            return f"{items:,} items: the run ended with exit code {done.returncode}"
        rows += json.loads(done.stdout.splitlines()[-1])["catalogue"]
    return ""


def _one_size(settings: CatalogueSettings) -> list[dict[str, Any]]:
    real, (items,) = load_bundle(settings.bundle), settings.items
    queries = _queries(settings)
    options = EngineOptions(sessions=1, cache_bytes=0, index="exact")
    with tempfile.TemporaryDirectory(prefix="catalogue-") as scratch:
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        pasts = [
            histories(real, make_bundle(real, folder, size, settings.seed), settings.users, settings.seed)
            for folder, size in ((small, BASE_ITEMS), (large, items))
        ]
        with Recommender(load_bundle(small), options) as base:
            before_mb, started = resident_mb(), time.monotonic()
            with Recommender(load_bundle(large), options) as engine:
                load_s = time.monotonic() - started
                trial = Trial(base, engine, pasts, queries, settings.repeats, settings.narrow)
                return [asdict(row) for row in trial.rows(load_s, before_mb)]


def _queries(settings: CatalogueSettings) -> list[str]:
    """One for each user: the title of an item, or words of texts."""
    described = texts(settings.bundle, settings.users, settings.seed)
    table = ItemTable.load(find_bundle(settings.bundle))
    random = np.random.default_rng(settings.seed)
    return [
        table[int(random.integers(len(table)))].title if number % 2 else " ".join(text.split()[:_WORDS])
        for number, text in enumerate(described)
    ]
