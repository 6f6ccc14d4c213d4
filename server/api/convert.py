"""Protobuf to domain, with every field checked before anything is queued; and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from struct import Struct
from typing import TypeVar

from server.api.text import is_blank
from server.batching.policy import DEFAULT_PRIORITY, PRIORITIES
from server.catalogue.catalogue import AttributeValues, Filter, Item
from server.catalogue.items import KEPT
from server.errors import InvalidRequest
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pipeline.domain import ItemEvent, Recommendation, Request, Strategy, TextEvent

A = TypeVar("A")
B = TypeVar("B")
DEFAULT_TOP_K = 10
MAX_TOP_K = 1_000
_MOST_IDS, _MOST_CONDITIONS, _MOST_VALUES = 10_000, 64, 1_000
_NAME_CHARS = 2_000
_MAX_UNKNOWN_VALUES, _UNKNOWN_VALUE_CHARS = 100, 200  # of a filter, named in a reply

_NO_FILTER = Filter()
_float = Struct("<f").pack
_STRATEGY = {Strategy.MODEL: pb.STRATEGY_MODEL, Strategy.POPULARITY: pb.STRATEGY_POPULARITY}


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What a request may hold."""

    text_chars: int = 2_000
    history: int = 1_000
    entries: int = 256


def to_request(message: pb.RecommendRequest, limits: InputLimits) -> Request:
    """Check and convert.

    Raises:
        InvalidRequest: names the first field that is wrong.
    """
    top_k = message.top_k if message.HasField("top_k") else DEFAULT_TOP_K
    if not 1 <= top_k <= MAX_TOP_K:
        raise InvalidRequest("top_k", f"must be in 1..{MAX_TOP_K}, got {top_k}")
    if len(message.history) > limits.history:
        raise InvalidRequest("history", f"at most {limits.history} events, got {len(message.history)}")
    if message.query:
        check_text(message.query, "query", limits)
    check_name(message.bundle, "bundle")
    return Request(
        history=tuple(each("history", message.history, partial(_event, limits))),
        query=message.query,
        top_k=top_k,
        conditions=_filter(message.filter) if message.HasField("filter") else _NO_FILTER,
        exclude_history=message.exclude_history if message.HasField("exclude_history") else None,
        priority=to_priority(message.priority),
    )


def to_priority(value: int) -> int:
    """1 to 9, or the default for 0."""
    if value not in PRIORITIES:
        raise InvalidRequest("priority", f"must be 1 (most urgent) to 9, or 0 for the default, got {value}")
    return value or DEFAULT_PRIORITY


def to_version(value: int) -> int:
    """A version, or 0 for the newest."""
    if value < 0:
        raise InvalidRequest("version", f"must not be negative, got {value}")
    return value


def check_entries(number: int, field: str, limits: InputLimits) -> None:
    """Refuse a list that is empty or too long."""
    if not 1 <= number <= limits.entries:
        raise InvalidRequest(field, f"must have 1..{limits.entries} entries, got {number}")


def check_name(name: str, field: str) -> str:
    """Refuse a name or an id that cannot be one."""
    if "\0" in name:
        raise InvalidRequest(field, "must not hold a NUL character")
    if len(name) > _NAME_CHARS:
        raise InvalidRequest(field, f"at most {_NAME_CHARS} characters, got {len(name)}")
    return name


def check_text(text: str, field: str, limits: InputLimits) -> str:
    """Refuse a text without a visible character and one over the limit."""
    if not text:
        raise InvalidRequest(field, "must not be empty")
    if len(text) > limits.text_chars:  # first, since the others look at each character
        raise InvalidRequest(field, f"at most {limits.text_chars} characters, got {len(text)}")
    if is_blank(text):
        raise InvalidRequest(field, "must have a visible character, not only spaces, control or format characters")
    if "\0" in text:
        raise InvalidRequest(field, "must not hold a NUL character")
    return text


def each(field: str, values: Iterable[A], check: Callable[[A], B]) -> Iterator[B]:
    """Check the values of a repeated field; where one stands is told only if it is wrong.

    Raises:
        InvalidRequest: names the first value that is wrong, and in it the field that `check` names.
    """
    for n, value in enumerate(values):
        try:
            checked = check(value)
        except InvalidRequest as error:
            inner = f".{error.field}" if error.field else ""
            raise InvalidRequest(f"{field}[{n}]{inner}", error.rule, error.quote) from None
        yield checked


def forget_items() -> None:
    """Keep nothing of items whose bundle may have gone."""
    _before_score.cache_clear()


def to_response(answer: Recommendation, bundle: str, version: int) -> pb.RecommendResponse:
    """The ranking as a message."""
    message = pb.RecommendResponse()
    fill(message, answer, bundle, version)
    return message


def fill(message: pb.RecommendResponse, answer: Recommendation, bundle: str, version: int) -> int:
    """Write the ranking into an empty message, which may be part of another; return how many bytes its items have."""
    items = b"".join([part for item, score in answer.items for part in (_before_score(item), _float(score))])
    message.MergeFromString(items)
    if answer.ignored:
        message.ignored.extend(answer.ignored)
    if answer.unknown_filter_values:
        named = answer.unknown_filter_values[:_MAX_UNKNOWN_VALUES]
        message.unknown_filter_values.extend(map(_shortened, named))
    for place, item_id in answer.resolved:
        message.resolved_events.add(index=place, item_id=item_id)
    message.strategy = _STRATEGY[answer.strategy]
    message.events_used = answer.events_used
    message.bundle, message.version = bundle, version
    steps, timings = answer.timings, message.timings
    timings.tokenise_ms, timings.encode_ms, timings.rank_ms = steps.tokenise_ms, steps.encode_ms, steps.rank_ms
    timings.retrieve_ms, timings.total_ms = steps.retrieve_ms, steps.total_ms
    return len(items)


def _shortened(value: str) -> str:
    return value if len(value) <= _UNKNOWN_VALUE_CHARS else f"{value[: _UNKNOWN_VALUE_CHARS - 3]}..."


def _event(limits: InputLimits, event: pb.Event) -> ItemEvent | TextEvent:
    if item_id := event.item_id:
        return ItemEvent(check_name(item_id, "item_id"))
    match event.WhichOneof("event"):
        case "text":
            return TextEvent(check_text(event.text, "text", limits))
        case "item_id":
            raise InvalidRequest("item_id", "must not be empty")
        case _:
            raise InvalidRequest("", "needs item_id or text")


def _filter(message: pb.Filter) -> Filter:
    for name, values, most in (
        ("allowed_item_ids", message.allowed_item_ids, _MOST_IDS),
        ("denied_item_ids", message.denied_item_ids, _MOST_IDS),
        ("any_of", message.any_of, _MOST_CONDITIONS),
        ("all_of", message.all_of, _MOST_CONDITIONS),
        ("none_of", message.none_of, _MOST_CONDITIONS),
    ):
        if len(values) > most:
            raise InvalidRequest(f"filter.{name}", f"at most {most}, got {len(values)}")
    return Filter(
        allowed=_ids(message.allowed_item_ids, "filter.allowed_item_ids"),
        denied=_ids(message.denied_item_ids, "filter.denied_item_ids"),
        any_of=_conditions(message.any_of, "filter.any_of"),
        all_of=_conditions(message.all_of, "filter.all_of"),
        none_of=_conditions(message.none_of, "filter.none_of"),
    )


def _ids(ids: Iterable[str], field: str) -> frozenset[str]:
    return frozenset(each(field, ids, partial(check_name, field="")))


def _conditions(messages: Iterable[pb.AttributeValues], field: str) -> tuple[AttributeValues, ...]:
    return tuple(each(field, messages, _condition))


def _condition(message: pb.AttributeValues) -> AttributeValues:
    if not message.name:
        raise InvalidRequest("name", "must not be empty")
    if not message.values:
        raise InvalidRequest("values", "needs at least one value")
    if len(message.values) > _MOST_VALUES:
        raise InvalidRequest("values", f"at most {_MOST_VALUES}, got {len(message.values)}")
    check_name(message.name, "name")
    return AttributeValues(message.name, tuple(each("values", message.values, partial(check_name, field=""))))


@lru_cache(KEPT)
def _before_score(item: Item) -> bytes:
    """The item as an entry of `items`, up to the four bytes of its score: a parser takes fields in any order.

    It is the same in every answer that names the item: made once, since ten of them cost more than a search.
    """
    attributes = [pb.AttributeValues(name=name, values=values) for name, values in item.attributes.items()]
    entry = pb.RankedItem(item_id=item.id, title=item.title, attributes=attributes)
    unscored, score = entry.SerializeToString(), pb.RankedItem(score=1.0).SerializeToString()
    entry.score = 1.0
    framed = pb.RecommendResponse(items=[entry]).SerializeToString()
    return framed[: -entry.ByteSize()] + unscored + score[:-4]
