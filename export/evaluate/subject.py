"""What is evaluated: something that turns texts into vectors and ranks the catalogue, in PyTorch or as served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.data.split import Histories
from export.evaluate.metrics import Ranked, Scores, rank
from export.evaluate.query_tasks import QueryTask
from export.evaluate.tasks import Tasks
from server.models.ranker import Kind, UserSequence

Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]
Rank = Callable[[list[UserSequence]], Vectors]

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Subject:
    """`encode` gives unit vectors [texts, d]; `rank` gives user vectors [users, d]; `items` are [items, d].

    `items` holds the vectors that the catalogue is shipped with, those of items that training never saw among them.
    `titles` gives the vectors of titles by position where they are known already.
    """

    encode: Encode
    rank: Rank
    items: Vectors
    max_history: int
    titles: Callable[[NDArray[np.int64]], Vectors] | None = None

    def answers(self, tasks: Tasks, behind: dict[str, Vectors]) -> dict[str, Ranked]:
        """Every task's answers; `behind` are the user vectors of `of_items` for "ids" and "cold"."""
        users = behind | {
            "text": self._of_texts(tasks.warm.histories, self.titles or self._encoding(tasks.titles)),
            "noisy": self._of_texts(tasks.warm.histories, self._encoding(tasks.noisy)),
        }
        users |= self._of_queries(tasks.queries)
        return {
            task: rank(_product(users[task], self.items), cases, len(self.items)) for task, cases in tasks.cases.items()
        }

    def of_items(self, tasks: Tasks) -> dict[str, Vectors]:
        """User vectors of histories as item ids: the same for every encoder behind one ranker and one catalogue."""
        cases = {"ids": tasks.warm.histories, "cold": tasks.cold.histories}
        return {
            task: self._users((list(self.items[h]), [Kind.ITEM] * len(h)) for h in map(self._last, histories))
            for task, histories in cases.items()
        }

    def _encoding(self, texts: Sequence[str]) -> Callable[[NDArray[np.int64]], Vectors]:
        return lambda positions: self.encode([texts[n] for n in positions])

    def _of_texts(self, histories: Histories, vectors_of: Callable[[NDArray[np.int64]], Vectors]) -> Vectors:
        """User vectors of histories as texts; each text that is needed is encoded once."""
        recent = [self._last(h) for h in histories]
        needed = np.unique(np.concatenate(recent))
        vectors = vectors_of(needed)
        rows = (vectors[np.searchsorted(needed, h)] for h in recent)
        return self._users((list(row), [Kind.TEXT] * len(row)) for row in rows)

    def _of_queries(self, queries: Mapping[str, QueryTask]) -> dict[str, Vectors]:
        """User vectors of requests without a history; each different text is encoded and ranked by once."""
        place = {text: n for n, text in enumerate(dict.fromkeys(t for query in queries.values() for t in query.texts))}
        users = self._users(([vector], [Kind.QUERY]) for vector in self.encode([*place]))
        return {task: users[[place[text] for text in query.texts]] for task, query in queries.items()}

    def _last(self, history: NDArray[np.int64]) -> NDArray[np.int64]:
        return history[-self.max_history :]

    def _users(self, sequences: Iterable[tuple[list[Vectors], list[Kind]]]) -> Vectors:
        """User vectors in the order asked; ranked by length, so that a batch is hardly padded."""
        jobs = [UserSequence(vectors, kinds) for vectors, kinds in sequences]
        users = np.empty((len(jobs), self.items.shape[1]), dtype=np.float32)
        order = sorted(range(len(jobs)), key=lambda n: len(jobs[n].kinds))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            users[batch] = self.rank([jobs[n] for n in batch])
        return users


def _product(users: Vectors, items: Vectors) -> Callable[[slice], Scores]:
    return lambda part: users[part] @ items.T
