"""User vectors to items: one search for all requests of the batch, under their filters."""

from __future__ import annotations

from collections.abc import Sequence

from server.pipeline.request_state import RequestState
from server.pipeline.stages import Stages


def retrieve(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Fill in the best items of each request; the most popular ones where nothing is known of the user."""
    live, rates = [state for state in batch if not state.call.is_cancelled], stages.rates
    known = [state for state in live if state.user is not None]
    unknown = [state for state in live if state.user is None]
    plain = [state for state in known if state.request.conditions.is_empty]
    filtered = [state for state in known if not state.request.conditions.is_empty]
    for states, rate, answer in (
        (plain, rates.search, _search),
        (filtered, rates.filtered_search, _search),
        (unknown, rates.popular, _most_popular),
    ):
        if states:
            started = stages.clock()
            words = sum(state.filter_work for state in states)
            _resolve_filters(stages, states)
            rates.filter.observe(words, stages.clock() - started)
            answer(stages, states)
            rate.observe(len(states), max(0.0, stages.clock() - started - rates.filter(words)))


def _resolve_filters(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Fill in which items each request may have."""
    for state in batch:
        state.allowed = stages.catalogue.mask(state.request.conditions, _left_out(stages, state))


def _search(stages: Stages, batch: Sequence[RequestState]) -> None:
    found = stages.catalogue.search_many(
        [state.user for state in batch if state.user is not None],
        [state.allowed for state in batch if state.allowed is not None],
        [state.request.top_k for state in batch],
        [state.aim.boosts for state in batch if state.aim is not None],
    )
    for state, items in zip(batch, found, strict=True):
        state.items = items


def _most_popular(stages: Stages, batch: Sequence[RequestState]) -> None:
    for state in batch:
        if state.allowed is not None:
            state.items = stages.catalogue.popular(state.allowed, state.request.top_k)


def _left_out(stages: Stages, state: RequestState) -> list[int]:
    """Items of the history where they may not be recommended again."""
    excludes = state.request.exclude_history
    return state.history.items if (stages.exclude_history if excludes is None else excludes) else []
