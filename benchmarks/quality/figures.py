"""Figures of other libraries' lists, compared with our recommenders on the same cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.quality.exchange import LIST_LENGTH, NO_ITEM, ItemLists, LibraryLists, LibraryProblem
from swiftrec.export.evaluate.metrics import TOP, RankedCases, mean_interval
from swiftrec.export.evaluate.ranks import NOT_FOUND
from swiftrec.export.schema.record import MeanInterval
from swiftrec.server.arrays import Floats

if TYPE_CHECKING:
    from swiftrec.benchmarks.quality.evaluation import BundleEvaluation

Ranks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class QualityRow:
    """One recommender. With several seeds each case's value is the mean over them.

    `difference` is its NDCG@10 minus the default variant's, case by case; None for that variant itself. `seed_ndcg` has
    a mean for each seed. CPU seconds are of all threads, `tune_cpu_s` on validation, `fit_cpu_s` of each final fit.
    """

    subject: str
    library: str
    ndcg: MeanInterval
    recall: MeanInterval
    difference: MeanInterval | None
    seeds: Sequence[int] = ()
    seed_ndcg: Sequence[float] = ()
    tune_cpu_s: float | None = None
    fit_cpu_s: Sequence[float] = ()
    chosen: Mapping[str, Any] | None = None
    trials: Sequence[Mapping[str, Any]] = ()


def own_rows(evaluation: BundleEvaluation) -> list[QualityRow]:
    """The baselines, the teacher and the default variant, as the export ranked them."""
    rows = []
    for name, ranks in evaluation.ranks.items():
        ranked = _ranked(ranks.astype(np.int64))
        rows.append(_row(name, "this export", ranked.ndcg, ranked.recall, evaluation))
    return rows


def row_of(library: LibraryLists, evaluation: BundleEvaluation) -> QualityRow:
    """The row of another library's lists.

    Raises:
        RuntimeError: the lists are not those of these cases, or name an item that may not be recommended.
    """
    for lists in library.lists:
        _require_valid(library.row, lists, evaluation.problem)
    seeds = [_ranked(ranks_of(lists, evaluation.targets)) for lists in library.lists]
    ndcg, recall = (np.mean(values, axis=0) for values in ([s.ndcg for s in seeds], [s.recall for s in seeds]))
    return replace(
        _row(library.row, library.library, ndcg, recall, evaluation),
        seeds=library.seeds,
        seed_ndcg=[float(seed.ndcg.mean()) for seed in seeds],
        tune_cpu_s=library.tune_cpu_s,
        fit_cpu_s=library.fit_cpu_s,
        chosen=library.chosen,
        trials=[asdict(trial) for trial in library.trials],
    )


def ranks_of(lists: ItemLists, targets: NDArray[np.int64]) -> Ranks:
    """Each target's place in its list, 0 is best; NOT_FOUND if it is not in it."""
    is_target = lists == targets[:, None]
    ranks: Ranks = np.where(is_target.any(1), is_target.argmax(1), NOT_FOUND)
    return ranks


def table(rows: Sequence[QualityRow], default: str) -> str:
    """Rows by NDCG@10, the best first."""
    head = ["recommender", "by", "NDCG@10", "Recall@10", f"minus {default}", "NDCG@10 by seed", "CPU s, tuning + fit"]
    ordered = sorted(rows, key=lambda row: -row.ndcg.mean)
    return formatting.table(head, [_cells(row) for row in ordered])


def _cells(row: QualityRow) -> list[str]:
    by_seed = f"{min(row.seed_ndcg):.4f} to {max(row.seed_ndcg):.4f}" if len(row.seed_ndcg) > 1 else ""
    seconds = "" if row.tune_cpu_s is None else f"{row.tune_cpu_s:.0f} + {np.mean(row.fit_cpu_s):.1f}"
    difference = "" if row.difference is None else _signed(row.difference)
    return [row.subject, row.library, str(row.ndcg), str(row.recall), difference, by_seed, seconds]


def _signed(difference: MeanInterval) -> str:
    return f"{difference.mean:+.4f} [{difference.low:+.3f}, {difference.high:+.3f}]"


def _row(subject: str, library: str, ndcg: Floats, recall: Floats, evaluation: BundleEvaluation) -> QualityRow:
    default_ndcg = _ranked(evaluation.ranks[evaluation.default].astype(np.int64)).ndcg
    return QualityRow(
        subject=subject,
        library=library,
        ndcg=mean_interval(ndcg, evaluation.seed),
        recall=mean_interval(recall, evaluation.seed),
        difference=None if subject == evaluation.default else mean_interval(ndcg - default_ndcg, evaluation.seed),
    )


def _ranked(ranks: Ranks) -> RankedCases:
    """Ranks with the export's own metrics, which read no more of it than these."""
    return RankedCases(ranks, np.full((len(ranks), TOP), NO_ITEM, dtype=np.int64))


def _require_valid(row: str, lists: ItemLists, problem: LibraryProblem) -> None:
    """Lists are held to the rules of the test: a library that recommends masked items would get wrong figures."""
    expected = (len(problem.test), LIST_LENGTH)
    if lists.shape != expected:
        raise RuntimeError(f"{row}: its lists are {lists.shape}, not {expected} (cases, items): fix its script")
    for case, (items, history) in enumerate(zip(lists, problem.test, strict=True)):
        recommended = items[items != NO_ITEM]
        if len(recommended) and (recommended.min() < 0 or recommended.max() >= problem.items):
            raise RuntimeError(f"{row}: the list of case {case} has an item outside the catalogue: fix its script")
        if len(np.unique(recommended)) != len(recommended):
            raise RuntimeError(f"{row}: the list of case {case} has an item twice: fix its script")
        if problem.masks_history and np.isin(recommended, history).any():
            raise RuntimeError(f"{row}: the list of case {case} has an item of its history: fix its script")
