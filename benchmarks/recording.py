"""A workload as it was seen on a live server, without its texts: how long they were and which came again.

A recording is JSON lines: a head, then one line a call with its time of arrival, and for each of its requests the
events and the query. A text is its length in tokens and a mark, an item id is a mark. Marks are keyed hashes; the key
is made for one recording and never written, so that nobody can try out texts against them, but equal texts have equal
marks. A replay draws a text of the same length for each mark, and an item of its own bundle for each mark of an id;
what was kept in the clear (`--keep-texts`) is sent as it was.

Of a filter the ids are kept as marks; its attributes only with `--keep-texts`, else it is without them in the replay:
`conditions` says how many there were. Bundle and version of a request are left out.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.texts import Items, TokenCounter, TokenTexts
from swiftrec.benchmarks.workload import Asked, Method
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    AttributeValues,
    BatchRecommendRequest,
    Event,
    Filter,
    RecommendRequest,
)

FORMAT = 1
_MARK_BYTES = 8
Seen = dict[str, Any]
"""One request; what it has not is not there.

`events` [[kind, mark, tokens]] and `query` [mark, tokens], with the text or id behind it if it was kept; `top_k`,
`exclude_history`, `priority`; `allowed` and `denied` [[mark, id if kept]], `conditions` their number, and
`attributes` {any_of, all_of, none_of} [[name, values]] if they were kept.
"""
_CONDITIONS = ("any_of", "all_of", "none_of")


class Marks:
    """Turns requests into what a recording keeps.

    Args:
        count: tokens of a text.
        keep_texts: write texts and ids in the clear, too.
    """

    def __init__(self, count: Callable[[str], int], *, keep_texts: bool = False) -> None:
        self._count, self._keep = count, keep_texts
        self._key = secrets.token_bytes(32)

    def call(self, method: Method, payload: bytes) -> list[Seen]:
        """The requests of one call.

        Raises:
            google.protobuf.message.DecodeError: the payload is no such message.
        """
        if method == "encode":
            return [{"query": self._text(text)} for text in encoder_pb2.EncodeRequest.FromString(payload).texts]
        if method == "batch":
            return [self._one(entry) for entry in BatchRecommendRequest.FromString(payload).requests]
        return [self._one(RecommendRequest.FromString(payload))]

    def _one(self, request: RecommendRequest) -> Seen:
        seen: Seen = {"events": [self._event(event) for event in request.history]}
        if request.query:
            seen["query"] = self._text(request.query)
        seen |= {name: getattr(request, name) for name in ("top_k", "exclude_history") if request.HasField(name)}
        seen |= {"priority": request.priority} if request.priority else {}
        return seen | self._filter(request.filter)

    def _filter(self, conditions: Filter) -> Seen:
        ids = {"allowed": conditions.allowed_item_ids, "denied": conditions.denied_item_ids}
        seen: Seen = {name: [self._id(item_id) for item_id in found] for name, found in ids.items() if found}
        attributes = {name: found for name in _CONDITIONS if (found := getattr(conditions, name))}
        if attributes:
            seen["conditions"] = sum(map(len, attributes.values()))
        if attributes and self._keep:
            seen["attributes"] = {
                name: [[one.name, list(one.values)] for one in found] for name, found in attributes.items()
            }
        return seen

    def _event(self, event: Event) -> list[Any]:
        if event.WhichOneof("event") == "text":
            return ["text", *self._text(event.text)]
        mark, *kept = self._id(event.item_id)
        return ["id", mark, 0, *kept]

    def _id(self, item_id: str) -> list[str]:
        return [self._mark(item_id), *([item_id] if self._keep else [])]

    def _text(self, text: str) -> list[Any]:
        return [self._mark(text), self._count(text), *([text] if self._keep else [])]

    def _mark(self, word: str) -> str:
        return hashlib.blake2b(word.encode(), digest_size=_MARK_BYTES, key=self._key).hexdigest()


def _lines(path: Path) -> list[dict[str, Any]]:
    """What stands on each line; the last one is left out where writing it was cut short, as a full disk does."""
    *lines, last = path.read_text(encoding="utf-8").split("\n")
    found = [json.loads(line) for line in lines]
    try:
        return found + ([json.loads(last)] if last else [])
    except ValueError:
        sys.stderr.write(f"{path}: partial: its last line is cut and left out\n")
        return found


@dataclass(frozen=True, slots=True)
class Recording:
    """Calls of one method: `times` in seconds from the first, and the requests of each."""

    method: Method
    times: NDArray[np.float64]
    calls: list[list[Seen]]

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a file.

        Raises:
            RuntimeError: it is no recording, or an empty one.
        """
        try:
            head, *rows = _lines(path)
            rows.sort(key=lambda row: row["t"])  # written as calls came, by several threads
            found = cls(head["method"], np.array([row["t"] for row in rows]), [row["requests"] for row in rows])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{path}: no recording ({error}): make one with swiftrec bench record") from None
        if head.get("format") != FORMAT or not rows:
            raise RuntimeError(f"{path}: {'holds no call' if not rows else 'of another format'}: record it again")
        return found

    def asked(self, bundle: Path, seed: int) -> Asked:
        """The calls again, with texts and ids of the bundle at `bundle` in the place of those that were not kept."""
        drawn = _Drawn(bundle, seed)
        calls = [[drawn.request(seen) for seen in call] for call in self.calls]
        messages = [self._message(call) for call in calls]
        tokens = [sum(map(drawn.tokens, call)) for call in calls]
        entries = [len(call) for call in self.calls]
        payloads = [message.SerializeToString() for message in messages]
        return Asked(self.method, payloads, np.array(tokens, np.int32), np.array(entries, np.int32))

    def _message(
        self, requests: list[RecommendRequest]
    ) -> RecommendRequest | BatchRecommendRequest | encoder_pb2.EncodeRequest:
        if self.method == "encode":
            return encoder_pb2.EncodeRequest(texts=[request.query for request in requests])
        return BatchRecommendRequest(requests=requests) if self.method == "batch" else requests[0]


class _Drawn:
    """One text for each mark of a text, one item id for each mark of an id."""

    def __init__(self, bundle: Path, seed: int) -> None:
        items = Items(bundle)
        self._counter, self._ids = TokenCounter(items.folder), items.ids
        self._texts = TokenTexts(items, self._counter)
        self._random = np.random.default_rng(seed)
        self._known: dict[str, str] = {}

    def request(self, seen: Seen) -> RecommendRequest:
        """A request of the same shape."""
        request = RecommendRequest(history=[self._event(*event) for event in seen.get("events", ())])
        if "query" in seen:
            request.query = self._text(*seen["query"])
        for name in ("top_k", "exclude_history", "priority"):
            if name in seen:
                setattr(request, name, seen[name])
        request.filter.allowed_item_ids.extend(self._id(*one) for one in seen.get("allowed", ()))
        request.filter.denied_item_ids.extend(self._id(*one) for one in seen.get("denied", ()))
        for name, found in seen.get("attributes", {}).items():
            getattr(request.filter, name).extend(AttributeValues(name=key, values=values) for key, values in found)
        if not request.filter.ByteSize():
            request.ClearField("filter")
        return request

    def tokens(self, request: RecommendRequest) -> int:
        """Of its texts, as the bundle's server counts them: the recorded lengths may be another tokenizer's."""
        texts = [event.text for event in request.history] + [request.query]
        return sum(self._counter.served(text) for text in texts if text)

    def _event(self, kind: str, mark: str, tokens: int, *kept: str) -> Event:
        if kind == "text":
            return Event(text=self._text(mark, tokens, *kept))
        return Event(item_id=self._id(mark, *kept))

    def _id(self, mark: str, *kept: str) -> str:
        drawn = self._ids[int(self._random.integers(len(self._ids)))]
        return kept[0] if kept else self._known.setdefault(f"id {mark}", drawn)

    def _text(self, mark: str, tokens: int, *kept: str) -> str:
        if kept:
            return kept[0]
        name = f"text {mark}"
        if name not in self._known:
            self._known[name] = self._texts.draw(tokens, self._random)[0]
        return self._known[name]
