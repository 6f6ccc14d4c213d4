"""Requests with a known target, from the validation users: histories of several lengths, queries, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from swiftrec.export.data.split import Cases
from swiftrec.server.arrays import Positions
from swiftrec.server.catalogue.blend import QUERIES, Query

MAX_REQUESTS = 400  # of a group


@dataclass(frozen=True, slots=True)
class RequestGroup:
    """Requests that share weights.

    Args:
        query: the kind of their query.
        events: least number of events of the requests that have these weights.
        last: how many last events of a history the group's requests for the fit have; 0: all.
    """

    query: Query
    events: int
    last: int


GROUPS = (
    RequestGroup("none", events=1, last=1),
    RequestGroup("none", events=2, last=3),
    RequestGroup("none", events=5, last=9),
    RequestGroup("none", events=15, last=0),
    RequestGroup("description", events=0, last=0),
    RequestGroup("description", events=1, last=3),
    RequestGroup("description", events=5, last=0),
    RequestGroup("title", events=0, last=0),
    RequestGroup("title", events=1, last=3),
    RequestGroup("title", events=5, last=0),
)


@dataclass(frozen=True, slots=True)
class BlendRequest:
    """A request: the items of its history, its query (empty: none), its target, and the items not to be recommended."""

    history: Positions
    query: str
    target: int
    masked: Positions


def requests_of(
    group: RequestGroup, cases: Cases, queries: Sequence[str], kind_of: Callable[[str], Query], seed: int
) -> Iterator[BlendRequest]:
    """At most `MAX_REQUESTS` of a group; users with fewer events than it has are left out.

    Args:
        group: the kind of the requests.
        cases: histories with their targets.
        queries: a query for the target of each case.
        kind_of: the kind of a query.
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
        yield BlendRequest(last, queries[n] if has_query else "", int(cases.targets[n]), left_out)
