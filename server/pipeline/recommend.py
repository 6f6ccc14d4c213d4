"""A batch of requests from tokens to ranked items: every stage takes the whole batch.

resolve (when a call is admitted) -> encode -> rank -> retrieve -> answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from server.catalogue.contributions import Contribution, contributions
from server.domain import Recommendation, Strategy
from server.errors import internal_error
from server.pipeline.encode import encode
from server.pipeline.rank import rank
from server.pipeline.request_state import RequestState, TextState
from server.pipeline.retrieve import retrieve
from server.pipeline.stages import Stages


def run(stages: Stages, batch: Sequence[TextState]) -> None:
    """Answer every request: a result, a vector for each text, or an error of its own.

    An exception in our own code is met by running the batch again one by one, so that only its request fails.
    """
    try:
        _run(stages, batch)
    except Exception as failure:  # noqa: BLE001 (the error has it as its cause)
        if len(batch) == 1:
            batch[0].error = internal_error(failure)
            return
        for state in batch:
            state.restart()
            run(stages, [state])


def _run(stages: Stages, batch: Sequence[TextState]) -> None:
    encode(stages, batch)
    encoded = stages.clock()
    requests = [state for state in batch if isinstance(state, RequestState) and not state.error]
    for state in batch:
        if state.rows:
            state.timings.encode_ms = 1e3 * (encoded - state.arrival) - state.timings.tokenise_ms
    if not requests:
        return
    rank(stages, requests)
    ranked = stages.clock()
    found = [state for state in requests if not state.error]
    retrieve(stages, found)
    _answer(stages, found, encoded, ranked)


def _answer(stages: Stages, batch: Sequence[RequestState], encoded: float, ranked: float) -> None:
    """Put the answers together; stages that a request has waited for count for it in whole."""
    ended, items = stages.clock(), stages.catalogue.items
    for state in batch:
        timings = state.timings
        if state.event_count:
            timings.rank_ms = 1e3 * (ranked - (encoded if state.rows else state.arrival))
        timings.retrieve_ms = 1e3 * (ended - ranked)
        timings.total_ms = 1e3 * (ended - state.arrival)
        state.result = Recommendation(
            state.items,
            state.ignored,
            Strategy.MODEL if state.user is not None else Strategy.POPULARITY,
            len(state.history.read),
            timings,
            state.unknown_filter_values,
            [(place, items[position].id) for place, position in state.history.resolved],
        )


def explain(stages: Stages, state: RequestState) -> list[Contribution]:
    """What each part adds to the scores of the items that were found, in their order; none by popularity alone.

    `Contribution.event` is the place in the request's history.
    """
    if state.user is None:
        return []
    places = [event.place for event in state.item_events]
    positions = stages.catalogue.positions([item.id for item, _ in state.items])
    known = state.known(stages.catalogue.sentences.shape[1])
    found = contributions(stages.scoring, known, state.user, stages.catalogue, positions)
    return [one if one.event is None else replace(one, event=places[one.event]) for one in found]
