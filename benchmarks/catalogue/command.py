"""`swiftrec bench catalogue`: the catalogue from 1,000 to 1,000,000 items, exact against approximate search.

The whole score is measured, boosts of memory and words included, for requests with a history, a query or both; half of
the queries are titles, the others words of texts. Each size runs in a separate process, through the whole pipeline of a
real bundle of which only the catalogue is synthetic. The same requests alternate between it and a catalogue of 2,000
items, so that a machine that becomes slower affects both.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting, result_files
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.catalogue.comparison import WARMUP_USERS, CatalogueComparison, resident_mb
from swiftrec.benchmarks.catalogue.result import CatalogueResult, text
from swiftrec.benchmarks.catalogue.synthetic import histories, make_bundle
from swiftrec.benchmarks.item_texts import bundle_texts
from swiftrec.benchmarks.optional_deps import collect_until_error
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.server_process import tool_command
from swiftrec.server.catalogue.catalogue import EXACT_BELOW
from swiftrec.server.catalogue.items import ItemTable
from swiftrec.server.models.bundle import find_bundle, load_bundle
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender

BASE_ITEMS = 2_000
_QUERY_WORDS = 8  # of a query that is no title


class CatalogueSettings(BaseSettings):
    """Measure recall, speed, memory and build time of the catalogue's index by catalogue size and filter.

    Use it after a change of the search, or to choose --index. Prints three tables; several sizes also write
    catalogue.json into a new folder of results.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench catalogue", cli_kebab_case=True)
    RENAMED: ClassVar = {"narrow": "exact_below"}

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    items: list[int] = Field([1_000, 10_000, 100_000, 1_000_000], description="sizes of the catalogue")
    users: int = Field(100, ge=2 * WARMUP_USERS, description="number of users, with one request each")
    repeats: int = Field(3, ge=1, description="rounds of whole requests")
    exact_below: int = Field(EXACT_BELOW, ge=0, description="search exactly if a filter allows at most this many items")
    seed: int = Field(7, description="random seed of items, users and queries")
    results: Path = Field(RESULTS, description="folder of results")


def run(settings: CatalogueSettings) -> int:
    """Measure each size and print the tables; 1 if it ended before the last size."""
    if len(settings.items) == 1:
        return formatting.finish("catalogue", *_report(_measure_size(settings)), "")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run like Ctrl-C
    result = CatalogueResult.begin(BundleId.of(load_bundle(settings.bundle).manifest), settings)
    sizes, reason = collect_until_error(_measure_sizes(settings))
    result.rows = [row for rows in sizes for row in rows]
    result.finish(reason)
    folder = result_files.new_folder(settings.results, result.machine)
    tables, figures = _report(result.rows)
    return formatting.finish("catalogue", f"{tables}\nwritten to {result_files.save(folder, result)}", figures, reason)


def _report(rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return text(rows), {"catalogue": rows}


def _measure_sizes(settings: CatalogueSettings) -> Iterator[list[dict[str, Any]]]:
    """The rows of each size, each measured in a separate process.

    Raises:
        RuntimeError: the process of a size failed.
    """
    for items in settings.items:
        flags = settings.model_dump(mode="json", include={"bundle", "users", "repeats", "exact_below", "seed"})
        command = tool_command("catalogue", items=items, **flags)
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
        if process.returncode:
            raise RuntimeError(f"{items:,} items: the run ended with exit code {process.returncode}")
        yield json.loads(process.stdout.splitlines()[-1])["catalogue"]


def _measure_size(settings: CatalogueSettings) -> list[dict[str, Any]]:
    real, (items,) = load_bundle(settings.bundle), settings.items
    queries = _queries(settings)
    options = EngineOptions(sessions=1, cache_bytes=0, index="exact")
    with tempfile.TemporaryDirectory(prefix="catalogue-") as scratch:
        small, large = Path(scratch) / "small", Path(scratch) / "large"
        user_histories = [
            histories(real, make_bundle(real, folder, size, settings.seed), settings.users, settings.seed)
            for folder, size in ((small, BASE_ITEMS), (large, items))
        ]
        with Recommender(load_bundle(small), options) as base:
            before_mb, started = resident_mb(), time.monotonic()
            with Recommender(load_bundle(large), options) as engine:
                load_s = time.monotonic() - started
                comparison = CatalogueComparison(
                    base, engine, user_histories, queries, settings.repeats, settings.exact_below
                )
                return [asdict(row) for row in comparison.rows(load_s, before_mb)]


def _queries(settings: CatalogueSettings) -> list[str]:
    """One for each user: the title of an item, or words of texts."""
    texts = bundle_texts(settings.bundle, settings.users, settings.seed)
    table = ItemTable.load(find_bundle(settings.bundle))
    random = np.random.default_rng(settings.seed)
    return [
        table[int(random.integers(len(table)))].title if number % 2 else " ".join(text.split()[:_QUERY_WORDS])
        for number, text in enumerate(texts)
    ]
