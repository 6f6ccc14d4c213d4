"""`swiftrec export planted DIR`: write a synthetic data set, and print the best figures that are possible on it."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import leave_one_out
from swiftrec.export.errors import DataError
from swiftrec.export.evaluate.metrics import mean_interval, rank
from swiftrec.export.planted.true_model import MAX_ITEMS, Shares, TrueModel, draw_dataset
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.arrays import Scores
from swiftrec.server.settings_reader import read_settings

FACTS = "planted.json"
_MIN_ITEMS, _MIN_USERS, _MAX_USERS = 100, 50, 1_000_000


class PlantedSettings(BaseSettings):
    """Write a synthetic data set with known structure: use it to see how much of that structure an export learns.

    A user's next item is drawn in one of three ways: a share --chains by what follows the last item, a share --topics
    by the topics of the items so far, which are visible in their texts, and the rest by popularity, which has a long
    tail. A few items are released late. The NDCG@10 of the true model on ids is printed: no recommender has a higher
    one on average.
    """

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_PLANTED_", cli_prog_name="swiftrec export planted", cli_kebab_case=True
    )

    folder: CliPositionalArg[Path] = Field(description="folder to write, which must not exist; export it with --data")
    items: int = Field(2_000, ge=_MIN_ITEMS, le=MAX_ITEMS, description="number of items")
    users: int = Field(2_000, ge=_MIN_USERS, le=_MAX_USERS, description="number of users, of 10 to 30 items each")
    chains: float = Field(0.2, ge=0, lt=1, description="share of the items drawn by what follows the last one")
    topics: float = Field(0.6, ge=0, lt=1, description="share of the items drawn by the topics of those so far")
    seed: int = Field(7, ge=0, description="random seed")

    @model_validator(mode="after")
    def _leaves_popularity(self) -> Self:
        if self.chains + self.topics >= 1:
            raise ValueError(
                f"--chains {self.chains} and --topics {self.topics} must be below 1 together: the rest is drawn by "
                "popularity"
            )
        return self

    @property
    def shares(self) -> Shares:
        """Of the three ways to draw an item."""
        return Shares(self.chains, self.topics, 1 - self.chains - self.topics)


def main(argv: list[str]) -> int:
    """Write the folder and print the best possible figures.

    Raises:
        DataError: the folder exists, or cannot be written.
    """
    settings = read_settings(PlantedSettings, argv)
    if settings.folder.exists():
        raise DataError(f"{settings.folder} exists: name a folder that does not, or remove it")
    rng = np.random.default_rng(settings.seed)
    model = TrueModel.draw(settings.items, settings.shares, rng)
    dataset = draw_dataset(model, settings.users, rng)
    best = ceilings(model, dataset, settings.seed)
    record = {"shares": asdict(settings.shares), "seed": settings.seed, "ndcg_on_ids": _as_rows(best)}
    try:
        _write(dataset, record, settings.folder)
    except OSError as error:
        raise DataError(f"{settings.folder} cannot be written ({error.strerror}): name another folder") from None
    events = sum(map(len, dataset.histories))
    lines = [f"{settings.folder}: {settings.items:,} items, {settings.users:,} users, {events:,} interactions"]
    lines += [f"best possible NDCG@10 on ids by {name}: {ndcg}" for name, ndcg in best.items()]
    lines.append(f"export it with: swiftrec export --data {settings.folder}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def ceilings(model: TrueModel, dataset: Dataset, seed: int) -> dict[str, MeanInterval]:
    """NDCG@10 of the true model on the cases of *ids* by leave-one-out, and of each of its distributions alone.

    The cases' histories are without cold items, as a recommender reads them; all items are released.
    """
    cases, items = leave_one_out(dataset).warm, len(dataset.items)
    distributions = {
        "the true model": model.shares,
        "what follows the last item alone": Shares(1, 0, 0),
        "topics alone": Shares(0, 1, 0),
        "popularity alone": Shares(0, 0, 1),
    }
    figures = {}
    for name, shares in distributions.items():
        mixed = model.with_shares(shares)

        def score(part: slice, mixed: TrueModel = mixed) -> Scores:
            histories = cases.histories[part]
            return mixed.chances(histories, np.ones(len(histories))).astype(np.float32)

        figures[name] = mean_interval(rank(score, cases, items).ndcg, seed)
    return figures


def _as_rows(figures: dict[str, MeanInterval]) -> dict[str, dict[str, float]]:
    return {name: {"mean": f.mean, "low": f.low, "high": f.high} for name, f in figures.items()}


def _write(dataset: Dataset, record: dict[str, object], folder: Path) -> None:
    """Write the tables and `planted.json` whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        items = ((i.id, i.title, i.text, *(value for (value,) in i.attributes.values())) for i in dataset.items)
        _write_csv(new / "items.csv", ("item_id", "title", "text", *dataset.items[0].attributes), items)
        ids = [item.id for item in dataset.items]
        rows = (
            (f"user-{user + 1}", ids[item], int(time))
            for user, (history, times) in enumerate(zip(dataset.histories, dataset.times, strict=True))
            for item, time in zip(history.tolist(), times.tolist(), strict=True)
        )
        _write_csv(new / "interactions.csv", ("user_id", "item_id", "timestamp"), rows)
        (new / FACTS).write_text(json.dumps(record, indent=1))
        new.rename(folder)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
