"""Requests whose answer is known, from the users who validate: with histories of several lengths, queries, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from swiftrec.export.data.split import Cases
from swiftrec.server.catalogue.blend import QUERIES, Query
from swiftrec.server.catalogue.sparse import Positions

MAX_REQUESTS = 400  # of a group


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that share weights.

    Args:
        query: what they ask.
        events: least number of events of the requests that these weights are for.
        last: how many events of a history the group's own requests have; 0: all.
    """

    query: Query
    events: int
    last: int


GROUPS = (
    Group("none", events=1, last=1),
    Group("none", events=2, last=3),
    Group("none", events=5, last=9),
    Group("none", events=15, last=0),
    Group("description", events=0, last=0),
    Group("description", events=1, last=3),
    Group("description", events=5, last=0),
    Group("title", events=0, last=0),
    Group("title", events=1, last=3),
    Group("title", events=5, last=0),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: the items of its history, its query (empty: none), what was wanted, and what may not be answered."""

    history: Positions
    query: str
    wanted: int
    masked: Positions


def requests_of(
    group: Group, cases: Cases, queries: Sequence[str], kind_of: Callable[[str], Query], seed: int
) -> Iterator[Asked]:
    """At most `MAX_REQUESTS` of a group; users with fewer events than it has are left out.

    Args:
        group: what its requests have.
        cases: histories, and what was wanted behind each.
        queries: a text that asks for what was wanted, for each case.
        kind_of: what a query is.
        seed: of the draw.
    """
    rng = np.random.default_rng((seed, QUERIES.index(group.query), group.events))
    has_query = group.query != "none"
    enough = [
        n
        for n, h in enumerate(cases.histories)
        if len(h) >= group.events and (not has_query or kind_of(queries[n]) == group.query)
    ]
    masked = cases.masked
    for n in rng.permutation(enough)[:MAX_REQUESTS].tolist():
        history = cases.histories[n]
        last = history[:0] if group.events == 0 else history[-group.last :]
        left_out = masked[n] if len(last) else masked[n][:0]
        yield Asked(last, queries[n] if has_query else "", int(cases.targets[n]), left_out)
