"""The stages of the pipeline, in order; each runs for a whole batch of requests.

resolve (when a call is admitted) -> encode -> rank -> retrieve -> to_result
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

from swiftrec.server.arrays import Vector
from swiftrec.server.catalogue.contributions import Contribution, contributions
from swiftrec.server.catalogue.history import Event, History
from swiftrec.server.domain import Recommendation, Request, Strategy, TextEvent
from swiftrec.server.errors import InternalError, SwiftrecError, internal_error
from swiftrec.server.models.networks import EventKind, ranker_half, sentence_half
from swiftrec.server.pipeline.request_state import Input, RequestState, TextState
from swiftrec.server.pipeline.stages import Stages

_MAX_QUEUED_EVENTS = 32  # a queued request with more drops its events; its `History` has what is needed


def resolve(stages: Stages, request: Request) -> RequestState:
    """Look up the items of a request, check its filter, tokenise its texts and predict its cost.

    Raises:
        InvalidRequest: no item has an attribute of the filter.
    """
    catalogue = stages.catalogue
    history, unknown_item_ids = History(stages.names, stages.max_history), list[str]()
    for index, event in enumerate(request.history):
        if isinstance(event, TextEvent):
            history.add_text(index, event.text)
        elif (position := catalogue.position(event.item_id)) is None:
            unknown_item_ids.append(event.item_id)
        else:
            history.add_item(index, position)
    texts = [event.text for event in history.read if event.position is None]
    if request.query:
        texts.append(request.query)
    started = stages.clock()
    tokens = stages.tokenizer.encode(texts) if texts else []
    state = RequestState(
        replace(request, history=()) if len(request.history) > _MAX_QUEUED_EVENTS else request, history, tokens
    )
    state.timings.tokenise_ms = 1e3 * (stages.clock() - started) if texts else 0.0
    state.unknown_item_ids = unknown_item_ids
    if not request.conditions.is_empty:
        catalogue.check_filter(request.conditions)
        state.filter_work = catalogue.filter_work(request.conditions)
        state.unknown_filter_values = catalogue.unknown_values(request.conditions)
    _look_up(stages, state)
    return state


def resolve_texts(stages: Stages, texts: Sequence[str]) -> list[TextState]:
    """Tokenise texts to encode, one state for each, and predict their cost."""
    started = stages.clock()
    states = [TextState([ids]) for ids in stages.tokenizer.encode(texts)]
    tokenise_ms = 1e3 * (stages.clock() - started)
    for state in states:
        state.timings.tokenise_ms = tokenise_ms
        _look_up(stages, state)
    return states


def run(stages: Stages, batch: Sequence[TextState]) -> None:
    """Set the vectors of each text and the items of each request, or its error.

    After an unexpected exception the requests are retried singly, so that only faulty ones fail.
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
    """Run the stages. The timings of a request include the time of the whole batch in each stage."""
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
    """Set the vectors of all texts: from the cache, or encoded once for all requests with the same text.

    If the model fails on a text, the requests with that text fail.
    """
    missing: dict[bytes, Sequence[int]] = {}
    hits = misses = 0
    for state in batch:
        for n, key in enumerate(state.keys):
            if state.vectors[n] is None:
                state.vectors[n] = stages.cache.get(key)
            if state.vectors[n] is None:
                missing[key] = state.rows[n]
                misses += 1
            else:
                hits += 1
    if stages.lookups:
        for source, texts in (("hit", hits), ("coalesced", misses - len(missing)), ("miss", len(missing))):
            if texts:
                stages.lookups.on_lookup(source, texts)
    if missing:
        _run_encoder(stages, batch, missing)


def rank(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Set the user vector of each request that has an event or a query."""
    started = stages.clock()
    for state in batch:
        if state.event_count:
            compose(stages, state)
    live = [state for state in batch if state.event_count and not state.call.is_cancelled]
    if live:
        width = stages.catalogue.sentences.shape[1]
        all_terms = stages.scoring.terms([state.scoring_input(width) for state in live])
        for state, terms in zip(live, all_terms, strict=True):
            state.terms = terms
        stages.rates.score.observe(len(live), stages.clock() - started)
    ranked = [state for state in live if state.terms is not None and not state.terms.is_zero]
    if not ranked:
        return
    users, seconds = stages.ranker.run([state.sequence() for state in ranked], [len(state.inputs) for state in ranked])
    for state, user, elapsed_s in zip(ranked, users, seconds, strict=True):
        state.compute_s += elapsed_s
        if isinstance(user, Exception):
            state.error = user
        elif state.terms is not None:
            state.user = state.terms.at(user)


def compose(stages: Stages, state: RequestState) -> None:
    """Set the inputs of the ranker; texts that are recognised as items become items. Stops if the call is cancelled."""
    encoded = iter(cast("list[Vector]", state.vectors))
    for event in state.history.read:
        if state.call.is_cancelled:  # looking up a long history of texts takes time
            return
        state.inputs.append(_read(stages, state, event, encoded))
    if state.request.query:
        state.inputs.append(_of_text(stages, EventKind.QUERY, next(encoded)))


def retrieve(stages: Stages, batch: Sequence[RequestState]) -> None:
    """Set the best items of each request; the most popular ones if there is no user vector."""
    live, rates = [state for state in batch if not state.call.is_cancelled], stages.rates
    with_user = [state for state in live if state.user is not None]
    without_user = [state for state in live if state.user is None]
    plain = [state for state in with_user if state.request.conditions.is_empty]
    filtered = [state for state in with_user if not state.request.conditions.is_empty]
    for states, rate, find in (
        (plain, rates.search, _search),
        (filtered, rates.filtered_search, _search),
        (without_user, rates.popular, _most_popular),
    ):
        if states:
            started = stages.clock()
            words = sum(state.filter_work for state in states)
            allowed = _resolve_filters(stages, states)
            rates.filter.observe(words, stages.clock() - started)
            find(stages, allowed)
            rate.observe(len(allowed), max(0.0, stages.clock() - started - rates.filter(words)))


def to_result(stages: Stages, state: RequestState) -> Recommendation | SwiftrecError:
    """The result of a request after `run`."""
    if state.error or state.items is None:
        return state.error or InternalError("internal error")
    return Recommendation(
        state.items,
        state.unknown_item_ids,
        Strategy.MODEL if state.user is not None else Strategy.POPULARITY,
        len(state.history.read),
        state.timings,
        state.unknown_filter_values,
        [(index, stages.catalogue.items[position].id) for index, position in state.history.resolved],
    )


def explain(stages: Stages, state: RequestState) -> list[Contribution]:
    """How much each part contributes to the scores of the ranked items; empty if they are ranked by popularity.

    `Contribution.event` is the index in the history of the request.
    """
    if state.user is None or state.items is None:
        return []
    indices = [event.index for event in state.item_events]
    positions = stages.catalogue.positions([item.id for item, _ in state.items])
    scoring_input = state.scoring_input(stages.catalogue.sentences.shape[1])
    parts = contributions(stages.scoring, scoring_input, state.user, stages.catalogue, positions)
    return [part if part.event is None else replace(part, event=indices[part.event]) for part in parts]


def _look_up(stages: Stages, state: TextState) -> None:
    """Take vectors from the cache, and predict the cost of encoding the other texts."""
    state.vectors = [stages.cache.get(key) for key in state.keys]
    state.was_cached = bool(state.vectors) and all(vector is not None for vector in state.vectors)
    stages.predict(state)


def _run_encoder(stages: Stages, batch: Sequence[TextState], missing: dict[bytes, Sequence[int]]) -> None:
    rows = list(missing.values())
    vectors, seconds = stages.encoder.run(rows, [len(row) for row in rows])
    results = dict(zip(missing, zip(vectors, seconds, strict=True), strict=True))
    for key, (vector, _) in results.items():
        if not isinstance(vector, Exception):
            stages.cache.put(key, vector)
    for state in batch:
        for n, key in enumerate(state.keys):
            if state.vectors[n] is None:
                vector, elapsed_s = results[key]
                state.was_cached = False
                state.compute_s = max(state.compute_s, elapsed_s)  # batches of one request run in parallel
                if isinstance(vector, Exception):
                    state.error = vector
                else:
                    state.vectors[n] = vector


def _read(stages: Stages, state: RequestState, event: Event, encoded: Iterator[Vector]) -> Input:
    """The ranker's input for an event; `encoded` yields the vectors of texts that are not items by name."""
    position = event.position
    if position is None:
        read = _of_text(stages, EventKind.TEXT, next(encoded))
        position = state.history.recognise(event, read.sentence)
        if position is None:
            return read
    catalogue = stages.catalogue
    return Input(EventKind.ITEM, catalogue.event_vector(position), catalogue.sentences[position])


def _of_text(stages: Stages, kind: EventKind, vector: Vector) -> Input:
    dimensions = stages.catalogue.dimensions
    return Input(kind, ranker_half(vector, dimensions), sentence_half(vector, dimensions))


def _resolve_filters(stages: Stages, batch: Sequence[RequestState]) -> list[RequestState]:
    """Set the candidates of each request by its filter, without the items of its history if those are excluded.

    Returns the requests whose call was not cancelled meanwhile, since a filter may take time.
    """
    for state in batch:
        if state.call.is_cancelled:
            continue
        excludes = state.request.exclude_history
        excluded = state.history.items if (stages.exclude_history if excludes is None else excludes) else []
        state.allowed = stages.catalogue.resolve_filter(state.request.conditions, excluded)
    return [state for state in batch if state.allowed is not None]


def _search(stages: Stages, batch: Sequence[RequestState]) -> None:
    results = stages.catalogue.search_many(
        [state.user for state in batch if state.user is not None],
        [state.allowed for state in batch if state.allowed is not None],
        [state.request.top_k for state in batch],
        [state.terms.boosts for state in batch if state.terms is not None],
    )
    for state, items in zip(batch, results, strict=True):
        state.items = items


def _most_popular(stages: Stages, batch: Sequence[RequestState]) -> None:
    for state in batch:
        if state.allowed is not None and not state.call.is_cancelled:
            state.items = stages.catalogue.popular(state.allowed, state.request.top_k)
