"""The first stage, when a call is admitted: which items a request names, and the tokens of its texts."""

from __future__ import annotations

from collections.abc import Sequence

from server.catalogue.history import History
from server.domain import Request, TextEvent
from server.pipeline.request_state import RequestState, TextState
from server.pipeline.stages import Stages


def resolve(stages: Stages, request: Request) -> RequestState:
    """Look up the items of a request, check its filter, tokenise its texts and predict its cost.

    Raises:
        InvalidRequest: the filter names an attribute that no item has.
    """
    catalogue = stages.catalogue
    history, ignored = History(stages.names, stages.max_history), list[str]()
    for place, event in enumerate(request.history):
        if isinstance(event, TextEvent):
            history.add_text(place, event.text)
        elif (position := catalogue.position(event.item_id)) is None:
            ignored.append(event.item_id)
        else:
            history.add_item(place, position)
    texts = [event.text for event in history.read if event.position is None]
    if request.query:
        texts.append(request.query)
    started = stages.clock()
    tokens = stages.tokenizer.encode(texts) if texts else []
    state = RequestState(request, history, tokens)
    state.timings.tokenise_ms = 1e3 * (stages.clock() - started) if texts else 0.0
    state.ignored = ignored
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


def _look_up(stages: Stages, state: TextState) -> None:
    """Take vectors from the cache, so that the predicted cost is that of the others."""
    state.vectors = [stages.cache.get(key) for key in state.keys]
    state.was_cached = bool(state.vectors) and all(vector is not None for vector in state.vectors)
    stages.predict(state)
