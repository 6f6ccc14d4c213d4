"""The learning curve: rows for `curve.json`, and the same as TensorBoard scalars while training runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One epoch: steps so far, mean loss, NDCG@10 on validation items (mean of ids and text, and each)."""

    step: int
    epoch: int
    loss: float
    validation_ndcg: float
    validation_ids: float
    validation_text: float


class Curve:
    """The rows of one training, written after each epoch; a context manager, which closes TensorBoard's file."""

    def __init__(self, folder: Path, name: str) -> None:
        """`folder` is the stage's; `name` distinguishes the trainings of a stage."""
        self._path = folder / f"{name}.json"
        self._board = SummaryWriter(str(folder / "tensorboard" / name))
        self.rows: list[EpochRow] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._board.close()

    def add(self, row: EpochRow) -> None:
        """Append a row and write all of them."""
        self.rows.append(row)
        for name, value in asdict(row).items():
            if name not in ("step", "epoch"):
                self._board.add_scalar(f"train/{name}", value, row.step)
        self._board.flush()
        self._path.write_text(json.dumps([asdict(each) for each in self.rows], indent=1))
