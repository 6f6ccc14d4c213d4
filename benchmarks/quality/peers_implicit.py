"""ALS and item-item nearest neighbours of `implicit`, run by the interpreter of its environment."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender
from scipy.sparse import csr_matrix

from swiftrec.benchmarks.quality.exchange import (
    LIST_LENGTH,
    HyperparameterTrial,
    ItemLists,
    LibraryProblem,
    ndcg,
    without_masked,
)
from swiftrec.benchmarks.quality.tuning import Hyperparameters, LibraryRecommender, main
from swiftrec.export.arrays import Histories

_ALS_GRID: dict[str, tuple[Any, ...]] = {
    "factors": (32, 64, 128),
    "alpha": (1.0, 10.0),
    "regularization": (0.1, 10.0),
}
_ITEM_ITEM_GRID: dict[str, tuple[Any, ...]] = {"similarity": ("cosine", "tfidf", "bm25"), "K": (20, 50, 100, 200)}
_SIMILARITIES = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}


def als(
    problem: LibraryProblem, parameters: Hyperparameters, fitted: Histories, histories: Histories, seed: int
) -> ItemLists:
    """Matrix factorisation; a user's factors are computed from the given history."""
    model = AlternatingLeastSquares(**parameters, random_state=seed, num_threads=1)
    return _lists(model, problem, fitted, histories)


def item_item(
    problem: LibraryProblem, parameters: Hyperparameters, fitted: Histories, histories: Histories, _seed: int
) -> ItemLists:
    """Sums of the similarities of a history's items."""
    model = _SIMILARITIES[parameters["similarity"]](K=parameters["K"], num_threads=1)
    return _lists(model, problem, fitted, histories)


def tune_als(problem: LibraryProblem, seed: int) -> Iterator[HyperparameterTrial]:
    """Every setting of the grid."""
    for parameters in _settings(_ALS_GRID):
        lists = als(problem, parameters, problem.train, problem.validation, seed)
        yield HyperparameterTrial(parameters, ndcg(lists, problem.valid))


def tune_item_item(problem: LibraryProblem, seed: int) -> Iterator[HyperparameterTrial]:
    """Every setting of the grid."""
    for parameters in _settings(_ITEM_ITEM_GRID):
        lists = item_item(problem, parameters, problem.train, problem.validation, seed)
        yield HyperparameterTrial(parameters, ndcg(lists, problem.valid))


def _settings(grid: dict[str, tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _lists(model: Any, problem: LibraryProblem, fitted: Histories, histories: Histories) -> ItemLists:  # noqa: ANN401 (untyped)
    model.fit(_matrix(fitted, problem.items), show_progress=False)
    lists, _ = model.recommend(
        np.arange(len(histories)),
        _matrix(histories, problem.items),
        N=min(LIST_LENGTH, problem.items),
        filter_already_liked_items=problem.masks_history,
        recalculate_user=True,
    )
    nothing = np.empty(0, np.int64)
    return without_masked(lists, histories if problem.masks_history else [nothing] * len(histories))


def _matrix(histories: Histories, items: int) -> csr_matrix:
    """Interactions counted, float32 [histories, items]."""
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    counts = np.ones(len(rows), dtype=np.float32)
    matrix = csr_matrix((counts, (rows, np.concatenate(histories))), shape=(len(histories), items))
    matrix.sum_duplicates()
    return matrix


_LIBRARY = f"implicit {version('implicit')}"
RECOMMENDERS = {
    "als": LibraryRecommender(_LIBRARY, tune_als, als),
    "item-item": LibraryRecommender(_LIBRARY, tune_item_item, item_item, is_random=False),
}

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # the library's remarks on formats are no progress
    sys.exit(main(RECOMMENDERS, sys.argv[1:]))
