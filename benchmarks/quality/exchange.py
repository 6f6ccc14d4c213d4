"""Files between this project and the environments of other libraries; needs NumPy only, since both sides import it.

A folder holds `problem.npz`, which this project writes, and for each row `<row>.npz` and `<row>.json`, which the other
library's script writes. Nothing is pickled. The test targets are not in it, so no script can choose anything by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.arrays import Histories
from swiftrec.server.arrays import Positions

LIST_LENGTH = 100
NO_ITEM = -1  # fills a list if fewer items can be recommended
TOP = 10
_PROBLEM = "problem.npz"


ItemLists = NDArray[np.int32]
"""Recommended items (positions in the catalogue), best first [cases, LIST_LENGTH]; filled up with NO_ITEM."""


@dataclass(frozen=True, slots=True)
class LibraryProblem:
    """What a recommender may see: `train[u]` oldest first, `valid[u]` the item after it, and the test's histories.

    Training histories behind the first `len(valid)` have no validation item. `items` is the size of the catalogue;
    `masks_history` says whether its list excludes the items of a history.
    """

    items: int
    masks_history: bool
    train: Histories
    valid: Positions
    test: Histories

    @property
    def known(self) -> Histories:
        """Everything before the test: what the final model is fitted on."""
        histories = [np.append(history, item) for history, item in zip(self.validation, self.valid, strict=True)]
        return [*histories, *self.train[len(self.valid) :]]

    @property
    def validation(self) -> Histories:
        """The training histories before `valid`."""
        return self.train[: len(self.valid)]

    def save(self, folder: Path) -> None:
        """Write `problem.npz`."""
        np.savez_compressed(
            folder / _PROBLEM,
            items=np.array(self.items),
            masks_history=np.array(self.masks_history),
            valid=self.valid,
            train=_flat(self.train),
            train_lengths=_lengths(self.train),
            test=_flat(self.test),
            test_lengths=_lengths(self.test),
        )

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        with np.load(folder / _PROBLEM, allow_pickle=False) as arrays:
            return cls(
                items=int(arrays["items"]),
                masks_history=bool(arrays["masks_history"]),
                train=_split(arrays["train"], arrays["train_lengths"]),
                valid=arrays["valid"],
                test=_split(arrays["test"], arrays["test_lengths"]),
            )


@dataclass(frozen=True, slots=True)
class HyperparameterTrial:
    """Hyper-parameters and their NDCG@10 on validation."""

    parameters: Mapping[str, Any]
    ndcg: float


@dataclass(frozen=True, slots=True)
class LibraryLists:
    """The lists of one row for each seed, and how they were made.

    `trials` are all settings that were tried on validation, `chosen` the best of them. `tune_cpu_s` and `fit_cpu_s` (a
    value for each seed: the final fit and its lists) are CPU seconds of all threads.
    """

    row: str
    library: str
    chosen: Mapping[str, Any]
    trials: Sequence[HyperparameterTrial]
    seeds: Sequence[int]
    tune_cpu_s: float
    fit_cpu_s: Sequence[float]
    lists: Sequence[ItemLists]

    def save(self, folder: Path) -> None:
        """Write `<row>.npz` and then `<row>.json`."""
        np.savez_compressed(folder / f"{self.row}.npz", lists=np.stack(self.lists).astype(np.int32))
        fields = {
            "library": self.library,
            "chosen": dict(self.chosen),
            "trials": [{"parameters": dict(trial.parameters), "ndcg": trial.ndcg} for trial in self.trials],
            "seeds": list(self.seeds),
            "tune_cpu_s": self.tune_cpu_s,
            "fit_cpu_s": list(self.fit_cpu_s),
        }
        (folder / f"{self.row}.json").write_text(json.dumps(fields, indent=1))

    @classmethod
    def load(cls, folder: Path, row: str) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError, ValueError, KeyError, TypeError: the files are missing or were not written by `save`.
        """
        fields = json.loads((folder / f"{row}.json").read_text())
        trials = [HyperparameterTrial(**trial) for trial in fields.pop("trials")]
        with np.load(folder / f"{row}.npz", allow_pickle=False) as arrays:
            return cls(row=row, trials=trials, lists=list(arrays["lists"]), **fields)


def ndcg(lists: ItemLists, targets: Positions) -> float:
    """Mean NDCG@10 of one target per case: what the scripts choose by on validation."""
    is_hit = lists[:, :TOP] == targets[:, None]
    return float((is_hit / np.log2(np.arange(is_hit.shape[1]) + 2.0)).sum(1).mean())


def without_masked(lists: NDArray[np.integer[Any]], masked: Sequence[Positions]) -> ItemLists:
    """Lists as `ItemLists`, without `masked[c]`: libraries fill up short lists with items that they should omit."""
    cleaned = np.full((len(lists), LIST_LENGTH), NO_ITEM, dtype=np.int32)
    for row, items, hidden in zip(cleaned, lists, masked, strict=True):
        valid = items[(items >= 0) & ~np.isin(items, hidden)][:LIST_LENGTH]
        row[: len(valid)] = valid
    return cleaned


def _lengths(histories: Histories) -> Positions:
    return np.array([len(history) for history in histories], dtype=np.int64)


def _flat(histories: Histories) -> Positions:
    return np.concatenate([*histories, np.empty(0, np.int64)])


def _split(flat: Positions, lengths: Positions) -> Histories:
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
