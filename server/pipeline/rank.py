"""Vectors of history and query to user vectors, and what the other parts of the score add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from server.catalogue.history import Event
from server.models.encoder import ranker_half, sentence_half
from server.models.ranker import Kind
from server.pipeline.request_state import Input, RequestState, Vector
from server.pipeline.stages import Stages


def rank(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Fill in what items are compared with, for each request that tells anything of the user."""
    started = stages.clock()
    composed = [state for state in batch if state.event_count and compose(stages, state)]
    if composed:
        width = stages.catalogue.sentences.shape[1]
        aims = stages.scoring.aims([state.known(width) for state in composed])
        for state, aim in zip(composed, aims, strict=True):
            state.aim = aim
    known = [state for state in batch if state.aim is not None and not state.aim.is_silent]
    stages.rates.score.observe(sum(bool(state.event_count) for state in batch), stages.clock() - started)
    if not known:
        return
    users, seconds = stages.ranker.run([state.sequence() for state in known], [len(state.inputs) for state in known])
    for state, user, took_s in zip(known, users, seconds, strict=True):
        state.compute_s += took_s
        if isinstance(user, Exception):
            state.error = user
        elif state.aim is not None:
            state.user = state.aim.at(user)


def compose(stages: Stages, state: RequestState) -> bool:
    """Fill in what the ranker reads; texts that mean an item become that item. False if the call is cancelled."""
    encoded = iter(cast("list[Vector]", state.vectors))
    for event in state.history.read:
        if state.call.is_cancelled:  # a long history of texts takes a while to look up
            return False
        state.inputs.append(_read(stages, state, event, encoded))
    if state.request.query:
        state.inputs.append(_of_text(stages, Kind.QUERY, next(encoded)))
    return not state.call.is_cancelled


def _read(stages: Stages, state: RequestState, event: Event, encoded: Iterator[Vector]) -> Input:
    """What the ranker reads of an event; `encoded` has the vectors of those that are no items by name."""
    position = event.position
    if position is None:
        read = _of_text(stages, Kind.TEXT, next(encoded))
        position = state.history.recognise(event, read.sentence)
        if position is None:
            return read
    catalogue = stages.catalogue
    return Input(Kind.ITEM, catalogue.event_vector(position), catalogue.sentences[position])


def _of_text(stages: Stages, kind: Kind, vector: Vector) -> Input:
    dimensions = stages.catalogue.dimensions
    return Input(kind, ranker_half(vector, dimensions), sentence_half(vector, dimensions))
