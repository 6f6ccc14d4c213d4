"""A random BERT of a few thousand weights and a data set of a few items, so that training runs within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.text_variants import write_texts
from swiftrec.export.job import Job
from tests.export.checkpoints import save_bert

_NOUNS = ["river", "night", "garden", "engine", "letter", "winter", "island", "mirror"]
_GENRES = ["drama", "comedy", "war"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789()'&,.-"


def write_checkpoint(folder: Path, layers: int = 3, more: tuple[str, ...] = ()) -> None:
    """A random BERT with a vocabulary of words and letters, and `more` pieces behind these."""
    words = [*_NOUNS, *_GENRES, *_LETTERS, *(f"##{c}" for c in _LETTERS), *more]
    save_bert(folder, words, width=16, layers=layers, heads=2)


def dataset(users: int = 12, events: int = 9) -> Dataset:
    """Histories that go round the catalogue, so that there is something to learn."""
    items = [
        DatasetItem(str(n), f"{noun} {n}", f"{noun} {n}. {genre}", {"genre": [genre]})
        for n, (noun, genre) in enumerate((noun, genre) for noun in _NOUNS for genre in _GENRES)
    ]
    histories = [(np.arange(events, dtype=np.int64) + 2 * user) % len(items) for user in range(users)]
    return Dataset(items, histories, ["film"], [], "made up", "none")


def write_data(folder: Path, made: Dataset | None = None) -> None:
    """What the stage `data` leaves of a data set; of the one above if none is given."""
    folder.mkdir(parents=True)
    made = made or dataset()
    made.save(folder)
    write_texts(made, 0, [f"another text {n}" for n in range(20)]).save(folder)
    write_checkpoint(folder / "checkpoint")


class StoppedJob(Job):
    """A job that is interrupted at a step of its progress, counted over all its bars; 0: never."""

    stop_at = 0
    done = 0

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Count steps in silence, but not those of reading, encoding and of the inside of a pass."""

        def step() -> None:
            if label in ("read texts", "encode texts", "texts of a pass"):
                return
            self.done += 1
            if self.done == self.stop_at:
                raise KeyboardInterrupt

        yield step


def job(artifacts: Path, *flags: str, stop_at: int = 0) -> StoppedJob:
    """A job on the tiny data under `artifacts`, which is written if it is not there."""
    settings = ExportSettings(
        artifacts=artifacts, name="tiny", preset="smoke", _cli_parse_args=["--epochs", "2", "--batch", "4", *flags]
    )
    made = StoppedJob(settings)
    made.stop_at = stop_at
    if not made.folder("data").exists():
        write_data(made.folder("data"))
    return made
