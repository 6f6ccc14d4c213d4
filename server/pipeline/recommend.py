"""A batch of requests from texts and ids to ranked items, read from top to bottom: every stage takes the whole batch.

resolve (when a call is admitted) -> encode -> rank -> retrieve -> answer
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from swiftrec.server.catalogue.contributions import Contribution, contributions
from swiftrec.server.catalogue.history import Event, History
from swiftrec.server.domain import Recommendation, Request, Strategy, TextEvent
from swiftrec.server.errors import InternalError, SwiftrecError, internal_error
from swiftrec.server.models.networks import Kind, ranker_half, sentence_half
from swiftrec.server.pipeline.request_state import Input, RequestState, TextState, Vector
from swiftrec.server.pipeline.stages import Stages

_KEPT = 32  # events of a request that may wait with it; of a longer one, what is needed is in its `History`


def resolve(stages: Stages, request: Request) -> RequestState:
    """Look up the items of a request, check its filter, tokenise its texts and predict its cost.

    Raises:
        InvalidRequest: the filter names an attribute that no item has.
    """
    catalogue = stages.catalogue
    history, unknown_item_ids = History(stages.names, stages.max_history), list[str]()
    for place, event in enumerate(request.history):
        if isinstance(event, TextEvent):
            history.add_text(place, event.text)
        elif (position := catalogue.position(event.item_id)) is None:
            unknown_item_ids.append(event.item_id)
        else:
            history.add_item(place, position)
    texts = [event.text for event in history.read if event.position is None]
    if request.query:
        texts.append(request.query)
    started = stages.clock()
    tokens = stages.tokenizer.encode(texts) if texts else []
    state = RequestState(replace(request, history=()) if len(request.history) > _KEPT else request, history, tokens)
    state.timings.tokenise_ms = 1e3 * (stages.clock() - started) if texts else 0.0
    state.unknown_item_ids = unknown_item_ids
    if not request.conditions.is_empty:
        catalogue.check_filter(request.conditions)
        state.filter_work = catalogue.filter_work(request.conditions)
        state.unknown_filter_values = catalogue.unknown_values(request.conditions)
    _look_up(stages, state)
    return state


def resolve_texts(stages: Stages, texts: Sequence[str]) -> list[TextState]:
    """Tokenise texts that are to be encoded, one state each, and predict their cost."""
    started = stages.clock()
    states = [TextState([ids]) for ids in stages.tokenizer.encode(texts)]
    tokenise_ms = 1e3 * (stages.clock() - started)
    for state in states:
        state.timings.tokenise_ms = tokenise_ms
        _look_up(stages, state)
    return states


def run(stages: Stages, batch: Sequence[TextState]) -> None:
    """Find the vectors of each text and the items of each request, or its error.

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
    """Stages that a request has waited for count for it in whole."""
    encode(stages, batch)
    encoded = stages.clock()
    for state in batch:
        if state.rows:
            state.timings.encode_ms = 1e3 * (encoded - state.arrival) - state.timings.tokenise_ms
    requests = [state for state in batch if isinstance(state, RequestState) and not state.error]
    if not requests:
        return
    rank(stages, requests)
    ranked = stages.clock()
    retrieve(stages, [state for state in requests if not state.error])
    ended = stages.clock()
    for state in requests:
        timings = state.timings
        if state.event_count:
            timings.rank_ms = 1e3 * (ranked - (encoded if state.rows else state.arrival))
        timings.retrieve_ms, timings.total_ms = 1e3 * (ended - ranked), 1e3 * (ended - state.arrival)


def encode(stages: Stages, batch: Sequence[TextState]) -> None:
    """Fill in the vectors of every text: from the cache, or encoded once for all requests that have the same text.

    A text that the model cannot encode is the error of its requests.
    """
    missing: dict[bytes, Sequence[int]] = {}
    hits = wanted = 0
    for state in batch:
        for n, key in enumerate(state.keys):
            if state.vectors[n] is None:
                state.vectors[n] = stages.cache.get(key)
            if state.vectors[n] is None:
                missing[key] = state.rows[n]
                wanted += 1
            else:
                hits += 1
    if stages.lookups:
        for source, texts in (("hit", hits), ("joined", wanted - len(missing)), ("miss", len(missing))):
            if texts:
                stages.lookups.looked_up(source, texts)
    if missing:
        _run_encoder(stages, batch, missing)


def rank(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Fill in what items are compared with, for each request that tells anything of the user."""
    started = stages.clock()
    for state in batch:
        if state.event_count:
            compose(stages, state)
    live = [state for state in batch if state.event_count and not state.call.is_cancelled]
    if live:
        width = stages.catalogue.sentences.shape[1]
        aims = stages.scoring.aims([state.known(width) for state in live])
        for state, aim in zip(live, aims, strict=True):
            state.aim = aim
        stages.rates.score.observe(len(live), stages.clock() - started)
    known = [state for state in live if state.aim is not None and not state.aim.is_silent]
    if not known:
        return
    users, seconds = stages.ranker.run([state.sequence() for state in known], [len(state.inputs) for state in known])
    for state, user, took_s in zip(known, users, seconds, strict=True):
        state.compute_s += took_s
        if isinstance(user, Exception):
            state.error = user
        elif state.aim is not None:
            state.user = state.aim.at(user)


def compose(stages: Stages, state: RequestState) -> None:
    """Fill in what the ranker reads; texts that mean an item become that item. It stops if the call is cancelled."""
    encoded = iter(cast("list[Vector]", state.vectors))
    for event in state.history.read:
        if state.call.is_cancelled:  # a long history of texts takes a while to look up
            return
        state.inputs.append(_read(stages, state, event, encoded))
    if state.request.query:
        state.inputs.append(_of_text(stages, Kind.QUERY, next(encoded)))


def retrieve(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Fill in the best items of each request; the most popular ones where nothing is known of the user."""
    live, rates = [state for state in batch if not state.call.is_cancelled], stages.rates
    known = [state for state in live if state.user is not None]
    unknown = [state for state in live if state.user is None]
    plain = [state for state in known if state.request.conditions.is_empty]
    filtered = [state for state in known if not state.request.conditions.is_empty]
    for states, rate, find in (
        (plain, rates.search, _search),
        (filtered, rates.filtered_search, _search),
        (unknown, rates.popular, _most_popular),
    ):
        if states:
            started = stages.clock()
            words = sum(state.filter_work for state in states)
            allowed = _resolve_filters(stages, states)
            rates.filter.observe(words, stages.clock() - started)
            find(stages, allowed)
            rate.observe(len(allowed), max(0.0, stages.clock() - started - rates.filter(words)))


def answer(stages: Stages, state: RequestState) -> Recommendation | SwiftrecError:
    """How a request ended that was run."""
    if state.error or state.items is None:
        return state.error or InternalError("internal error")
    return Recommendation(
        state.items,
        state.unknown_item_ids,
        Strategy.MODEL if state.user is not None else Strategy.POPULARITY,
        len(state.history.read),
        state.timings,
        state.unknown_filter_values,
        [(place, stages.catalogue.items[position].id) for place, position in state.history.resolved],
    )


def explain(stages: Stages, state: RequestState) -> list[Contribution]:
    """What each part adds to the scores of the items that were found, in their order; none by popularity alone.

    `Contribution.event` is the place in the request's history.
    """
    if state.user is None or state.items is None:
        return []
    places = [event.place for event in state.item_events]
    positions = stages.catalogue.positions([item.id for item, _ in state.items])
    known = state.known(stages.catalogue.sentences.shape[1])
    found = contributions(stages.scoring, known, state.user, stages.catalogue, positions)
    return [one if one.event is None else replace(one, event=places[one.event]) for one in found]


def _look_up(stages: Stages, state: TextState) -> None:
    """Take vectors from the cache, so that the predicted cost is that of the others."""
    state.vectors = [stages.cache.get(key) for key in state.keys]
    state.was_cached = bool(state.vectors) and all(vector is not None for vector in state.vectors)
    stages.predict(state)


def _run_encoder(stages: Stages, batch: Sequence[TextState], missing: dict[bytes, Sequence[int]]) -> None:
    rows = list(missing.values())
    vectors, seconds = stages.encoder.run(rows, [len(row) for row in rows])
    found = dict(zip(missing, zip(vectors, seconds, strict=True), strict=True))
    for key, (vector, _) in found.items():
        if not isinstance(vector, Exception):
            stages.cache.put(key, vector)
    for state in batch:
        for n, key in enumerate(state.keys):
            if state.vectors[n] is None:
                vector, took_s = found[key]
                state.was_cached = False
                state.compute_s = max(state.compute_s, took_s)  # batches of one request run side by side
                if isinstance(vector, Exception):
                    state.error = vector
                else:
                    state.vectors[n] = vector


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


def _resolve_filters(stages: Stages, batch: Sequence[RequestState]) -> list[RequestState]:
    """Fill in which items each request may have: none of its history where they may not be recommended again.

    Returns those whose call is not cancelled meanwhile: a filter may take a while.
    """
    for state in batch:
        if state.call.is_cancelled:
            continue
        excludes = state.request.exclude_history
        left_out = state.history.items if (stages.exclude_history if excludes is None else excludes) else []
        state.allowed = stages.catalogue.mask(state.request.conditions, left_out)
    return [state for state in batch if state.allowed is not None]


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
        if state.allowed is not None and not state.call.is_cancelled:
            state.items = stages.catalogue.popular(state.allowed, state.request.top_k)
