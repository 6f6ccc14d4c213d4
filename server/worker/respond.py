"""Recommendations to protobuf."""

from __future__ import annotations

from functools import lru_cache
from struct import Struct

from swiftrec.server.catalogue.items import KEPT, Item
from swiftrec.server.domain import Recommendation, Strategy
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb

_MAX_UNKNOWN_VALUES, _UNKNOWN_VALUE_CHARS = 100, 200  # of a filter, named in a response
_float = Struct("<f").pack
_STRATEGY = {Strategy.MODEL: pb.STRATEGY_MODEL, Strategy.POPULARITY: pb.STRATEGY_POPULARITY}


def clear_item_cache() -> None:
    """Keep nothing of items whose bundle may have gone."""
    _encoded_item.cache_clear()


def to_response(answer: Recommendation, bundle: str, version: int) -> pb.RecommendResponse:
    """The ranking as a message."""
    message = pb.RecommendResponse()
    write_response(message, answer, bundle, version)
    return message


def write_response(message: pb.RecommendResponse, answer: Recommendation, bundle: str, version: int) -> int:
    """Write the ranking into an empty message, which may be part of another; return how many bytes its items have."""
    items = b"".join([part for item, score in answer.items for part in (_encoded_item(item), _float(score))])
    message.MergeFromString(items)
    if answer.unknown_item_ids:
        message.ignored.extend(answer.unknown_item_ids)  # deprecated: clients of earlier versions read it
        message.unknown_item_ids.extend(answer.unknown_item_ids)
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


@lru_cache(KEPT)
def _encoded_item(item: Item) -> bytes:
    """The item as an entry of `items`, up to the four bytes of its score: a parser takes fields in any order.

    It is the same in every answer that names the item: made once, since ten of them cost more than a search.
    """
    attributes = [pb.AttributeValues(name=name, values=values) for name, values in item.attributes.items()]
    entry = pb.RankedItem(item_id=item.id, title=item.title, attributes=attributes)
    unscored, score = entry.SerializeToString(), pb.RankedItem(score=1.0).SerializeToString()
    entry.score = 1.0
    framed = pb.RecommendResponse(items=[entry]).SerializeToString()
    return framed[: -entry.ByteSize()] + unscored + score[:-4]
