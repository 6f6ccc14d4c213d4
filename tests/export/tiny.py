"""A random BERT of a few thousand weights and a data set of a few items, so that training runs within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.text_variants import write_texts
from swiftrec.export.job import Job
from swiftrec.export.stages.order import STAGES
from tests.export.checkpoints import save_bert

_NOUNS = ["river", "night", "garden", "engine", "letter", "winter", "island", "mirror"]
_GENRES = ["drama", "comedy", "war"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789()'&,.-"


def write_checkpoint(folder: Path, layers: int = 3, more: tuple[str, ...] = ()) -> None:
    """A random BERT whose vocabulary has words, letters and `more` pieces."""
    words = [*_NOUNS, *_GENRES, *_LETTERS, *(f"##{c}" for c in _LETTERS), *more]
    save_bert(folder, words, width=16, layers=layers, heads=2)


def dataset(users: int = 12, events: int = 9) -> Dataset:
    """Histories that cycle through the catalogue, so that there is something to learn."""
    items = [
        DatasetItem(str(n), f"{noun} {n}", f"{noun} {n}. {genre}", {"genre": [genre]})
        for n, (noun, genre) in enumerate((noun, genre) for noun in _NOUNS for genre in _GENRES)
    ]
    histories = [(np.arange(events, dtype=np.int64) + 2 * user) % len(items) for user in range(users)]
    return Dataset(items, histories, ["film"], [], "made up", "none")


def write_data(folder: Path, made: Dataset | None = None) -> None:
    """The output of stage `data` for a data set, by default for `dataset()`."""
    folder.mkdir(parents=True)
    made = made or dataset()
    made.save(folder)
    write_texts(made, 0, [f"another text {n}" for n in range(20)]).save(folder)
    write_checkpoint(folder / "checkpoint")


class StoppedJob(Job):
    """A job that is interrupted at step `stop_at` of its progress, counted over all bars; 0: never."""

    stop_at = 0
    done = 0

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Count steps without output, except those of reading, encoding and within a pass."""

        def step() -> None:
            if label in ("read texts", "encode texts", "texts of a pass"):
                return
            self.done += 1
            if self.done == self.stop_at:
                raise KeyboardInterrupt

        yield step


def job(artifacts: Path, *flags: str, stop_at: int = 0) -> StoppedJob:
    """A job on the tiny data under `artifacts`, which are written if missing."""
    settings = ExportSettings(
        artifacts=artifacts, name="tiny", preset="smoke", _cli_parse_args=["--epochs", "2", "--batch", "4", *flags]
    )
    made = StoppedJob(settings)
    made.stop_at = stop_at
    if not made.folder("data").exists():
        write_data(made.folder("data"))
    return made


def run_stages(tiny_job: Job, *names: str) -> Path:
    """Run these stages in order, as the export does; the folder of the last."""
    modules = {stage.name: stage.module for stage in STAGES}
    for name in names:
        tiny_job.folder(name).mkdir(parents=True, exist_ok=True)
        import_module(modules[name]).run(tiny_job, tiny_job.folder(name))
    return tiny_job.folder(names[-1])
