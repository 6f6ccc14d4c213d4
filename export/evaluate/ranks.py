"""`ranks.npz` of stage `verify`: the target's rank in every case, so that other recommenders can be compared in pairs.

Arrays: `<recommender>/<task>` (int32 [cases], 0 is best, `NOT_FOUND` if the target may not be recommended),
`warm_users` and `warm_targets` (int32 [warm cases], rows and positions of the data set) and `seed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.split import Cases
from swiftrec.export.evaluate.metrics import RankedCases

RANKS = "ranks.npz"
NOT_FOUND = int(np.iinfo(np.int32).max)
_SEPARATOR = "/"
_USERS, _TARGETS, _SEED = "warm_users", "warm_targets", "seed"


@dataclass(frozen=True, slots=True)
class RecordedRanks:
    """Ranks by recommender and task, and the warm cases that the tasks without cold items are made of.

    `users` and `targets` (int32 [warm cases]) identify the cases; `seed` drew them and the bootstrap's samples.
    """

    ranks: Mapping[str, Mapping[str, NDArray[np.int32]]]
    users: NDArray[np.int32]
    targets: NDArray[np.int32]
    seed: int

    @classmethod
    def of(cls, results: Mapping[str, Mapping[str, RankedCases]], warm: Cases, seed: int) -> Self:
        """The ranks of recommender -> task -> results."""
        ranks = {
            name: {task: np.minimum(ranked.ranks, NOT_FOUND).astype(np.int32) for task, ranked in tasks.items()}
            for name, tasks in results.items()
        }
        return cls(ranks, warm.users.astype(np.int32), warm.targets.astype(np.int32), seed)

    def save(self, folder: Path) -> None:
        """Write `ranks.npz`."""
        arrays = {f"{name}{_SEPARATOR}{task}": row for name, tasks in self.ranks.items() for task, row in tasks.items()}
        arrays |= {_USERS: self.users, _TARGETS: self.targets, _SEED: np.array(self.seed)}
        np.savez_compressed(folder / RANKS, **arrays)  # type: ignore[arg-type] # the type of the keywords includes allow_pickle

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            OSError, ValueError, KeyError: the file is missing or was not written by `save`.
        """
        ranks: dict[str, dict[str, NDArray[np.int32]]] = {}
        with np.load(folder / RANKS, allow_pickle=False) as arrays:
            for key in arrays.files:
                name, separator, task = key.rpartition(_SEPARATOR)
                if separator:
                    ranks.setdefault(name, {})[task] = arrays[key]
            return cls(ranks, arrays[_USERS], arrays[_TARGETS], int(arrays[_SEED]))
