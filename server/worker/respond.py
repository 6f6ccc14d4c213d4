"""Converts recommendations to protobuf."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from swiftrec.server.catalogue.items import MAX_DECODED_ITEMS
from swiftrec.server.domain import Item, Recommendation, Strategy
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb

_MAX_UNKNOWN_VALUES, _UNKNOWN_VALUE_CHARS = 100, 200  # of a filter, listed in a response
_float = Struct("<f").pack
_STRATEGY = {Strategy.MODEL: pb.STRATEGY_MODEL, Strategy.POPULARITY: pb.STRATEGY_POPULARITY}


def clear_item_cache() -> None:
    """Release the items of bundles that may have been unloaded."""
    _encoded_item.cache_clear()


def to_response(result: Recommendation, bundle: str, version: int) -> pb.RecommendResponse:
    """The ranking as a message."""
    message = pb.RecommendResponse()
    write_response(message, result, bundle, version)
    return message


def write_response(message: pb.RecommendResponse, result: Recommendation, bundle: str, version: int) -> int:
    """Write the ranking into an empty message, which may be part of another; returns the size of its items in bytes."""
    items = b"".join([part for item, score in result.items for part in (_encoded_item(item), _float(score))])
    message.MergeFromString(items)
    if result.unknown_item_ids:
        message.ignored.extend(result.unknown_item_ids)  # deprecated: clients of earlier versions read it
        message.unknown_item_ids.extend(result.unknown_item_ids)
    if result.unknown_filter_values:
        values = result.unknown_filter_values[:_MAX_UNKNOWN_VALUES]
        message.unknown_filter_values.extend(map(_shortened, values))
    for index, item_id in result.resolved:
        message.resolved_events.add(index=index, item_id=item_id)
    message.strategy = _STRATEGY[result.strategy]
    message.events_used = result.events_used
    message.bundle, message.version = bundle, version
    steps, timings = result.timings, message.timings
    timings.tokenise_ms, timings.encode_ms, timings.rank_ms = steps.tokenise_ms, steps.encode_ms, steps.rank_ms
    timings.retrieve_ms, timings.total_ms = steps.retrieve_ms, steps.total_ms
    return len(items)


def _shortened(value: str) -> str:
    return value if len(value) <= _UNKNOWN_VALUE_CHARS else f"{value[: _UNKNOWN_VALUE_CHARS - 3]}..."


@lru_cache(MAX_DECODED_ITEMS)
def _encoded_item(item: Item) -> bytes:
    """The item as an entry of `items`, without the four bytes of its score at the end: fields may have any order.

    It is the same in every response, and cached because serialising ten items costs more than a search.
    """
    attributes = [pb.AttributeValues(name=name, values=values) for name, values in item.attributes.items()]
    entry = pb.RankedItem(item_id=item.id, title=item.title, attributes=attributes)
    unscored, score = entry.SerializeToString(), pb.RankedItem(score=1.0).SerializeToString()
    entry.score = 1.0
    framed = pb.RecommendResponse(items=[entry]).SerializeToString()
    return framed[: -entry.ByteSize()] + unscored + score[:-4]
