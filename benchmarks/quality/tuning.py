"""What the scripts in other environments share: choose settings on validation, fit again, write lists. NumPy only.

Settings are tried with the first seed: fitted on the training histories, judged by NDCG@10 on validation. The best ones
are fitted again on training and validation events, once for each seed, and these models give the lists of the test.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swiftrec.benchmarks.quality.exchange import HyperparameterTrial, ItemLists, LibraryLists, LibraryProblem
from swiftrec.export.arrays import Histories

Hyperparameters = Mapping[str, Any]
Tune = Callable[[LibraryProblem, int], Iterable[HyperparameterTrial]]
"""Problem, seed -> every setting that was tried, with its NDCG@10 on validation."""
MakeLists = Callable[[LibraryProblem, Hyperparameters, Histories, Histories, int], ItemLists]
"""Problem, settings, histories to fit on, histories to make lists for, seed -> lists."""


@dataclass(frozen=True, slots=True)
class LibraryRecommender:
    """A recommender of another library; one that is not `is_random` gives the same lists for every seed."""

    library: str
    tune: Tune
    recommend: MakeLists
    is_random: bool = True


def main(recommenders: Mapping[str, LibraryRecommender], arguments: Sequence[str]) -> int:
    """Read the problem in the folder, and write the lists of each named row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("rows", nargs="+", choices=sorted(recommenders))
    parser.add_argument("--seeds", nargs="+", type=int, required=True)
    options = parser.parse_args(arguments)
    problem = LibraryProblem.load(options.folder)
    for row in options.rows:
        make_lists(row, recommenders[row], problem, options.seeds).save(options.folder)
    return 0


def make_lists(
    row: str, recommender: LibraryRecommender, problem: LibraryProblem, seeds: Sequence[int]
) -> LibraryLists:
    """Choose settings on validation, then make the lists of the test."""
    began = time.process_time()
    trials = []
    for trial in recommender.tune(problem, seeds[0]):
        trials.append(trial)
        print_progress(f"{row}: validation NDCG@10 {trial.ndcg:.4f} with {in_words(trial.parameters)}")
    chosen = max(trials, key=lambda trial: trial.ndcg).parameters
    tune_cpu_s = time.process_time() - began
    fit_seeds = seeds if recommender.is_random else seeds[:1]
    lists, fit_cpu_s = [], []
    for seed in fit_seeds:
        print_progress(f"{row}: final fit with {in_words(chosen)}, seed {seed}")
        began = time.process_time()
        lists.append(recommender.recommend(problem, chosen, problem.known, problem.test, seed))
        fit_cpu_s.append(time.process_time() - began)
    return LibraryLists(row, recommender.library, chosen, trials, list(fit_seeds), tune_cpu_s, fit_cpu_s, lists)


def print_progress(line: str) -> None:
    """Print a line of progress at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def in_words(parameters: Hyperparameters) -> str:
    """Settings as text."""
    return ", ".join(f"{name} {value}" for name, value in parameters.items())
