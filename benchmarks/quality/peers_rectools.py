"""SASRec of RecTools, run by the interpreter of its environment."""

from __future__ import annotations

import itertools
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

from swiftrec.benchmarks.quality.exchange import (
    LIST_LENGTH,
    NO_ITEM,
    HyperparameterTrial,
    ItemLists,
    LibraryProblem,
    ndcg,
    without_masked,
)
from swiftrec.benchmarks.quality.tuning import Hyperparameters, LibraryRecommender, main
from swiftrec.export.arrays import Histories

_WINDOW_EVENTS = 100
_MODEL: dict[str, Any] = {
    "n_blocks": 2,
    "n_factors": 64,
    "n_heads": 1,
    "session_max_len": _WINDOW_EVENTS,
    "batch_size": 128,
    "loss": "softmax",
    "deterministic": True,
    "recommend_torch_device": "cpu",
}
_GRID: dict[str, tuple[Any, ...]] = {"dropout_rate": (0.2, 0.4), "lr": (0.002,)}
_EPOCHS_STEP = 5
_MAX_EPOCHS = 60
_PATIENCE_EPOCHS = 15


def sasrec(
    problem: LibraryProblem, parameters: Hyperparameters, fitted: Histories, histories: Histories, seed: int
) -> ItemLists:
    """Self-attention over item ids, softmax over the whole catalogue at every position."""
    options = dict(parameters)
    epochs = options.pop("epochs")
    model = _model(options, seed)
    model.fit_partial(_dataset(_windows(fitted)), min_epochs=epochs, max_epochs=epochs)
    return _lists(model, problem, histories)


def tune(problem: LibraryProblem, seed: int) -> Iterator[HyperparameterTrial]:
    """Every setting of the grid, each after every few epochs until it no longer improves."""
    data = _dataset(_windows(problem.train))
    for values in itertools.product(*_GRID.values()):
        parameters = dict(zip(_GRID, values, strict=True))
        model, best, best_epochs = _model(parameters, seed), -1.0, 0
        for epochs in range(_EPOCHS_STEP, _MAX_EPOCHS + 1, _EPOCHS_STEP):
            model.fit_partial(data, min_epochs=_EPOCHS_STEP, max_epochs=_EPOCHS_STEP)
            result = ndcg(_lists(model, problem, problem.validation), problem.valid)
            yield HyperparameterTrial({**parameters, "epochs": epochs}, result)
            if result > best:
                best, best_epochs = result, epochs
            if epochs - best_epochs >= _PATIENCE_EPOCHS:
                break


def _model(parameters: Hyperparameters, seed: int) -> SASRecModel:
    seed_everything(seed)
    return SASRecModel(**_MODEL, **parameters, epochs=_MAX_EPOCHS)


def _windows(histories: Histories) -> Histories:
    """Histories in windows of consecutive targets, since the library trains on the last window of each user only."""
    size = _WINDOW_EVENTS
    return [h[max(0, end - size - 1) : end] for h in histories for end in range(len(h), 1, -size)]


def _dataset(histories: Histories) -> Dataset:
    """One user for each history; only the order of its events counts, so their times are 0, 1, 2, ..."""
    lengths = [len(history) for history in histories]
    events = {
        Columns.User: np.repeat(np.arange(len(histories)), lengths),
        Columns.Item: np.concatenate(histories),
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(np.concatenate([np.arange(length) for length in lengths]), unit="s"),
    }
    return Dataset.construct(pd.DataFrame(events))


def _lists(model: SASRecModel, problem: LibraryProblem, histories: Histories) -> ItemLists:
    result = model.recommend(
        np.arange(len(histories)),
        _dataset(histories),
        k=LIST_LENGTH,
        filter_viewed=problem.masks_history,
        on_unsupported_targets="ignore",  # histories without an item that was fitted
    )
    lists = np.full((len(histories), LIST_LENGTH), NO_ITEM)
    lists[result[Columns.User], result[Columns.Rank] - 1] = result[Columns.Item]
    nothing = np.empty(0, np.int64)
    return without_masked(lists, histories if problem.masks_history else [nothing] * len(histories))


def _silence() -> None:
    """The libraries' remarks on devices and settings are no progress."""
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


RECOMMENDERS = {"sasrec": LibraryRecommender(f"RecTools {version('rectools')}", tune, sasrec)}

if __name__ == "__main__":
    _silence()
    sys.exit(main(RECOMMENDERS, sys.argv[1:]))
