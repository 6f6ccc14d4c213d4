"""A user's own data: `items`, `interactions`, `users`, `texts`, each CSV, JSONL or Parquet, as a data set.

A table is one file, gzipped or not, or a folder of part files. Tables are read as streams, and items go to disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swiftrec.export.data.dataset import Dataset, ItemFile, line_of
from swiftrec.export.data.order import UNORDERED
from swiftrec.export.data.profile import Profile
from swiftrec.export.data.scan import DEFAULTS, LoadOptions, Scan


@dataclass(frozen=True, slots=True)
class LoadedData:
    """The data set, at most 20,000 texts of users, and the figures of both."""

    dataset: Dataset
    texts: list[str]
    profile: Profile


def load(folder: Path, target: Path, options: LoadOptions = DEFAULTS, *, skip: bool = False) -> LoadedData:
    """Read the data set in `folder` and write its items to `target`.

    Items need item_id and text; title and other columns (attributes; "|" separates values) are optional. Interactions
    need user_id, item_id and, if the order is by time, timestamp; rating is optional. Texts need text. Users (user_id,
    attribute columns) are optional: with them, quality is also reported for each group of users.

    Raises:
        DataError: the report of all issues; with `skip` only if some issue cannot be skipped.
    """
    with (target / "items.jsonl").open("w", encoding="utf-8") as file:
        scan = Scan(folder, lambda item: file.write(line_of(item)), options)
    scan.issues.require_usable(skip=skip)
    interactions = scan.interactions
    dataset = Dataset(
        items=ItemFile(target / "items.jsonl"),
        histories=interactions.histories(),
        nouns=["item"],
        probes=scan.attributes.probes(),
        source=f"{folder.name} (user's own)",
        licence="the user's own",
        times=interactions.history_times() if options.is_timed else [],
        users=scan.groups,
        ratings=interactions.history_ratings(),
        order=options.order,
    )
    dataset = dataset.without_order() if options.order == UNORDERED else dataset
    return LoadedData(dataset, scan.texts, scan.profile())
