"""Converts protobuf requests to the domain, and checks every field before a request is queued."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeVar

from swiftrec.server.domain import DEFAULT_PRIORITY, PRIORITIES, AttributeValues, Filter, ItemEvent, Request, TextEvent
from swiftrec.server.errors import InvalidRequest
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.text import is_blank

A = TypeVar("A")
B = TypeVar("B")
DEFAULT_TOP_K = 10
MAX_TOP_K = 1_000
_MAX_IDS, _MAX_CONDITIONS, _MAX_VALUES = 10_000, 64, 1_000  # of a filter
_MAX_NAME_CHARS = 2_000

_NO_FILTER = Filter()


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Limits of a request.

    Args:
        text_chars: characters of a text.
        history: events of one request.
        entries: requests or texts of one call.
        items: requested by one call in total.
        events: of one call in total.
        filter_values: ids and values in the filters of one call in total.
    """

    text_chars: int = 2_000
    history: int = 1_000
    entries: int = 256
    items: int = 20_000
    events: int = 20_000
    filter_values: int = 20_000


def to_request(message: pb.RecommendRequest, limits: InputLimits) -> Request:
    """Check and convert a request.

    Raises:
        InvalidRequest: names the first invalid field.
    """
    top_k = message.top_k if message.HasField("top_k") else DEFAULT_TOP_K
    if not 1 <= top_k <= MAX_TOP_K:
        raise InvalidRequest("top_k", f"must be in 1..{MAX_TOP_K}, got {top_k}")
    check_items(top_k, "top_k", limits)
    if len(message.history) > limits.history:
        raise InvalidRequest("history", f"at most {limits.history} events, got {len(message.history)}")
    check_events(len(message.history), "history", limits)
    if message.query:
        check_text(message.query, "query", limits)
    check_name(message.bundle, "bundle")
    return Request(
        history=tuple(check_each("history", message.history, partial(_event, limits))),
        query=message.query,
        top_k=top_k,
        conditions=_filter(message.filter, limits) if message.HasField("filter") else _NO_FILTER,
        exclude_history=message.exclude_history if message.HasField("exclude_history") else None,
        priority=to_priority(message.priority),
    )


def to_priority(value: int) -> int:
    """A priority from 1 to 9; the default for 0."""
    if value not in PRIORITIES:
        raise InvalidRequest("priority", f"must be 1 (most urgent) to 9, or 0 for the default, got {value}")
    return value or DEFAULT_PRIORITY


def to_version(value: int) -> int:
    """A version; 0 means the newest."""
    if value < 0:
        raise InvalidRequest("version", f"must not be negative, got {value}")
    return value


def check_entries(number: int, field: str, limits: InputLimits) -> None:
    """Reject a batch that is empty or too large."""
    if not 1 <= number <= limits.entries:
        raise InvalidRequest(field, f"must have 1..{limits.entries} entries, got {number}")


def check_batch(requests: Sequence[pb.RecommendRequest], limits: InputLimits) -> None:
    """Reject a batch of recommend requests that is too large, by number or in total.

    Raises:
        InvalidRequest: names the field `requests`.
    """
    check_entries(len(requests), "requests", limits)
    check_items(sum(map(_count_items, requests)), "requests", limits)
    check_events(sum(len(request.history) for request in requests), "requests", limits)
    filters = (request.filter for request in requests if request.HasField("filter"))
    check_filter_values(sum(map(_count_filter_values, filters)), "requests", limits)


def check_items(number: int, field: str, limits: InputLimits) -> None:
    """Reject a call that asks for too many items in total."""
    _check_total(number, limits.items, field, "asks for {} items", "--max-items", "ask for fewer items")


def check_events(number: int, field: str, limits: InputLimits) -> None:
    """Reject a call with too many events in total."""
    remedy = "send only the last events of each history"
    _check_total(number, limits.events, field, "has {} events", "--max-events", remedy)


def check_filter_values(number: int, field: str, limits: InputLimits) -> None:
    """Reject a call with too many ids and values in its filters in total."""
    remedy = "name fewer ids or values"
    _check_total(number, limits.filter_values, field, "has {} ids and values of filters", "--max-filter-values", remedy)


def _check_total(number: int, limit: int, field: str, total: str, setting: str, remedy: str) -> None:
    """Reject a call if a total over its requests exceeds a limit."""
    if number > limit:
        reason = f"{total.format(number)} in all, more than {setting} ({limit})"
        raise InvalidRequest(field, f"{reason}: {remedy}, or send fewer entries in one call")


def check_name(name: str, field: str) -> str:
    """Reject a name or an id that is too long or has a NUL character."""
    if "\0" in name:
        raise InvalidRequest(field, "must not contain a NUL character")
    if len(name) > _MAX_NAME_CHARS:
        raise InvalidRequest(field, f"at most {_MAX_NAME_CHARS} characters, got {len(name)}")
    return name


def check_text(text: str, field: str, limits: InputLimits) -> str:
    """Reject a text that has no visible character or is too long."""
    if not text:
        raise InvalidRequest(field, "must not be empty")
    if len(text) > limits.text_chars:  # first: the next checks read each character
        raise InvalidRequest(field, f"at most {limits.text_chars} characters, got {len(text)}")
    if is_blank(text):
        raise InvalidRequest(field, "must have a visible character, not only spaces, control or format characters")
    if "\0" in text:
        raise InvalidRequest(field, "must not contain a NUL character")
    return text


def check_each(field: str, values: Iterable[A], check: Callable[[A], B]) -> Iterator[B]:
    """Check the values of a repeated field.

    Raises:
        InvalidRequest: names the index of the first invalid value, and the field within it that `check` names.
    """
    for n, value in enumerate(values):
        try:
            checked = check(value)
        except InvalidRequest as error:
            inner = f".{error.field}" if error.field else ""
            raise InvalidRequest(f"{field}[{n}]{inner}", error.rule, error.quote) from None
        yield checked


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


def _count_items(message: pb.RecommendRequest) -> int:
    """The number of items that a request asks for; 0 if it is invalid, which is reported for that request."""
    top_k = message.top_k if message.HasField("top_k") else DEFAULT_TOP_K
    return top_k if 1 <= top_k <= MAX_TOP_K else 0


def _count_filter_values(message: pb.Filter) -> int:
    ids = len(message.allowed_item_ids) + len(message.denied_item_ids)
    return ids + sum(len(condition.values) for condition in chain(message.any_of, message.all_of, message.none_of))


def _filter(message: pb.Filter, limits: InputLimits) -> Filter:
    for name, values, limit in (
        ("allowed_item_ids", message.allowed_item_ids, _MAX_IDS),
        ("denied_item_ids", message.denied_item_ids, _MAX_IDS),
        ("any_of", message.any_of, _MAX_CONDITIONS),
        ("all_of", message.all_of, _MAX_CONDITIONS),
        ("none_of", message.none_of, _MAX_CONDITIONS),
    ):
        if len(values) > limit:
            raise InvalidRequest(f"filter.{name}", f"at most {limit}, got {len(values)}")
    check_filter_values(_count_filter_values(message), "filter", limits)
    return Filter(
        allowed=_ids(message.allowed_item_ids, "filter.allowed_item_ids"),
        denied=_ids(message.denied_item_ids, "filter.denied_item_ids"),
        any_of=_conditions(message.any_of, "filter.any_of"),
        all_of=_conditions(message.all_of, "filter.all_of"),
        none_of=_conditions(message.none_of, "filter.none_of"),
    )


def _ids(ids: Iterable[str], field: str) -> frozenset[str]:
    return frozenset(check_each(field, ids, partial(check_name, field="")))


def _conditions(messages: Iterable[pb.AttributeValues], field: str) -> tuple[AttributeValues, ...]:
    return tuple(check_each(field, messages, _condition))


def _condition(message: pb.AttributeValues) -> AttributeValues:
    if not message.name:
        raise InvalidRequest("name", "must not be empty")
    if not message.values:
        raise InvalidRequest("values", "needs at least one value")
    if len(message.values) > _MAX_VALUES:
        raise InvalidRequest("values", f"at most {_MAX_VALUES}, got {len(message.values)}")
    check_name(message.name, "name")
    return AttributeValues(message.name, tuple(check_each("values", message.values, partial(check_name, field=""))))
