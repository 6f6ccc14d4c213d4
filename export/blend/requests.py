"""Requests whose answer is known, from the users who validate: with histories of several lengths, queries, or both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.data.phrases import Texts
from export.data.split import Cases
from server.catalogue.filters import Positions

MAX_REQUESTS = 600  # of a group
_PHRASES = 0.5  # share of the queries that ask for attributes where some fit


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that share weights.

    Args:
        has_query: whether they ask something.
        events: least number of events of the requests that these weights are for.
        last: how many events of a history the group's own requests have; 0: all.
    """

    has_query: bool
    events: int
    last: int


GROUPS = (
    Group(has_query=False, events=1, last=1),
    Group(has_query=False, events=2, last=3),
    Group(has_query=False, events=5, last=9),
    Group(has_query=False, events=15, last=0),
    Group(has_query=True, events=0, last=0),
    Group(has_query=True, events=1, last=3),
    Group(has_query=True, events=5, last=0),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the items of its history, the row of its query among `Texts.all` (-1: none), and what was wanted."""

    history: Positions
    query: int
    wanted: int
    masked: Positions


def requests_of(group: Group, cases: Cases, texts: Texts, seed: int) -> Iterator[Asked]:
    """At most `MAX_REQUESTS` of a group; users with fewer events than it has are left out."""
    rng = np.random.default_rng((seed, group.has_query, group.events))
    enough = [n for n, h in enumerate(cases.histories) if len(h) >= group.events]
    queries = _Queries(texts, rng) if group.has_query else None
    masked = cases.masked
    for n in rng.permutation(enough)[:MAX_REQUESTS].tolist():
        history, wanted = cases.histories[n], int(cases.wanted[n])
        last = history[:0] if group.events == 0 else history[-group.last :]
        left_out = masked[n] if len(last) else masked[n][:0]
        yield Asked(last, queries.draw(wanted) if queries else -1, wanted, left_out)


class _Queries:
    """Texts that ask for an item: ways to write it but the full text, and phrases that it fits."""

    def __init__(self, texts: Texts, rng: np.random.Generator) -> None:
        self._rng, self._ways, self._items = rng, len(texts.variants), len(texts.variants[0])
        fitting: dict[int, list[int]] = {}
        for number, phrase in enumerate(texts.phrases):
            for item in np.asarray(phrase.items).tolist():
                fitting.setdefault(item, []).append(number)
        self._fitting = fitting

    def draw(self, item: int) -> int:
        """A row of `Texts.all`."""
        fitting: Sequence[int] = self._fitting.get(item, ())
        if fitting and self._rng.random() < _PHRASES:
            return self._ways * self._items + int(self._rng.choice(fitting))
        return int(self._rng.integers(1, self._ways)) * self._items + item


Rows = NDArray[np.int64]
