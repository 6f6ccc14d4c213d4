"""A recording of live requests: their shapes, under pseudonyms, and the requests that a replay makes of them.

A recording is JSON lines: a header, then one line a call with its arrival time, and for each of its requests the events
and the query. A text is its length in tokens and a pseudonym, an item id is a pseudonym. Pseudonyms are keyed hashes;
the key is made for one recording and never written, so that texts cannot be guessed, but equal texts have equal
pseudonyms. A replay draws a text of the same length for each pseudonym, and an item of its bundle for each pseudonym of
an id; what was kept in the clear (`--keep-texts`) is sent unchanged.

Ids of a filter are kept as pseudonyms; its attributes are kept only with `--keep-texts`, otherwise the replay has none:
`conditions` is their number. Bundle and version of a request are left out.
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

from swiftrec.benchmarks.item_texts import Items, TokenCounter, TokenTexts
from swiftrec.benchmarks.workload import MethodName, Requests
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import (
    AttributeValues,
    BatchRecommendRequest,
    Event,
    Filter,
    RecommendRequest,
)

FORMAT = 1
_PSEUDONYM_DIGITS = 16  # hexadecimal
Shape = dict[str, Any]
"""One request, with only the fields that it has.

`events` [[kind, pseudonym, tokens]] and `query` [pseudonym, tokens], followed by the text or id if it was kept;
`top_k`, `exclude_history`, `priority`; `allowed` and `denied` [[pseudonym, id if kept]], `conditions` their number, and
`attributes` {any_of, all_of, none_of} [[name, values]] if they were kept.
"""
_CONDITIONS = ("any_of", "all_of", "none_of")


class Pseudonyms:
    """Turns requests into the shapes of a recording.

    Args:
        count: gives the number of tokens of a text.
        keep_texts: keep texts and ids in the clear as well.
    """

    def __init__(self, count: Callable[[str], int], *, keep_texts: bool = False) -> None:
        self._count, self._keep = count, keep_texts
        self._key = secrets.token_bytes(32)

    def call(self, method: MethodName, payload: bytes) -> list[Shape]:
        """The shapes of the requests of one call.

        Raises:
            google.protobuf.message.DecodeError: the payload cannot be decoded.
        """
        if method == "encode":
            return [{"query": self._text(text)} for text in encoder_pb2.EncodeRequest.FromString(payload).texts]
        if method == "batch":
            return [self._one(entry) for entry in BatchRecommendRequest.FromString(payload).requests]
        return [self._one(RecommendRequest.FromString(payload))]

    def _one(self, request: RecommendRequest) -> Shape:
        shape: Shape = {"events": [self._event(event) for event in request.history]}
        if request.query:
            shape["query"] = self._text(request.query)
        shape |= {name: getattr(request, name) for name in ("top_k", "exclude_history") if request.HasField(name)}
        shape |= {"priority": request.priority} if request.priority else {}
        return shape | self._filter(request.filter)

    def _filter(self, conditions: Filter) -> Shape:
        ids = {"allowed": conditions.allowed_item_ids, "denied": conditions.denied_item_ids}
        shape: Shape = {name: [self._id(item_id) for item_id in result] for name, result in ids.items() if result}
        attributes = {name: result for name in _CONDITIONS if (result := getattr(conditions, name))}
        if attributes:
            shape["conditions"] = sum(map(len, attributes.values()))
        if attributes and self._keep:
            shape["attributes"] = {
                name: [[item.name, list(item.values)] for item in result] for name, result in attributes.items()
            }
        return shape

    def _event(self, event: Event) -> list[Any]:
        if event.WhichOneof("event") == "text":
            return ["text", *self._text(event.text)]
        pseudonym, *kept = self._id(event.item_id)
        return ["id", pseudonym, 0, *kept]

    def _id(self, item_id: str) -> list[str]:
        return [self._pseudonym(item_id), *([item_id] if self._keep else [])]

    def _text(self, text: str) -> list[Any]:
        return [self._pseudonym(text), self._count(text), *([text] if self._keep else [])]

    def _pseudonym(self, word: str) -> str:
        return hashlib.blake2b(word.encode(), key=self._key).hexdigest()[:_PSEUDONYM_DIGITS]


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines as JSON, without the last one if it is cut off, as on a full disk."""
    *lines, last = path.read_text(encoding="utf-8").split("\n")
    result = [json.loads(line) for line in lines]
    try:
        return result + ([json.loads(last)] if last else [])
    except ValueError:
        sys.stderr.write(f"{path}: partial: its last line is cut off and ignored\n")
        return result


@dataclass(frozen=True, slots=True)
class Recording:
    """Calls of one method: `times` in seconds from the first call, and the shapes of its requests."""

    method: MethodName
    times: NDArray[np.float64]
    calls: list[list[Shape]]

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a file.

        Raises:
            RuntimeError: it is not a recording, or an empty one.
        """
        try:
            head, *rows = _lines(path)
            rows.sort(key=lambda row: row["t"])  # written by several threads
            result = cls(head["method"], np.array([row["t"] for row in rows]), [row["requests"] for row in rows])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RuntimeError(f"{path}: not a recording ({error}): make one with swiftrec bench record") from None
        if head.get("format") != FORMAT or not rows:
            raise RuntimeError(f"{path}: {'holds no call' if not rows else 'of another format'}: record it again")
        return result

    def requests(self, bundle: Path, seed: int) -> Requests:
        """The calls, with texts and ids of the bundle at `bundle` for those that were not kept."""
        replay = _Replay(bundle, seed)
        calls = [[replay.request(shape) for shape in call] for call in self.calls]
        messages = [self._message(call) for call in calls]
        tokens = [sum(map(replay.tokens, call)) for call in calls]
        entries = [len(call) for call in self.calls]
        payloads = [message.SerializeToString() for message in messages]
        return Requests(self.method, payloads, np.array(tokens, np.int32), np.array(entries, np.int32))

    def _message(
        self, requests: list[RecommendRequest]
    ) -> RecommendRequest | BatchRecommendRequest | encoder_pb2.EncodeRequest:
        if self.method == "encode":
            return encoder_pb2.EncodeRequest(texts=[request.query for request in requests])
        return BatchRecommendRequest(requests=requests) if self.method == "batch" else requests[0]


class _Replay:
    """One text for each pseudonym of a text, one item id for each pseudonym of an id."""

    def __init__(self, bundle: Path, seed: int) -> None:
        items = Items(bundle)
        self._counter, self._ids = TokenCounter(items.folder), items.ids
        self._texts = TokenTexts(items, self._counter)
        self._random = np.random.default_rng(seed)
        self._assigned: dict[str, str] = {}

    def request(self, shape: Shape) -> RecommendRequest:
        """A request of the same shape."""
        request = RecommendRequest(history=[self._event(*event) for event in shape.get("events", ())])
        if "query" in shape:
            request.query = self._text(*shape["query"])
        for name in ("top_k", "exclude_history", "priority"):
            if name in shape:
                setattr(request, name, shape[name])
        request.filter.allowed_item_ids.extend(self._id(*item) for item in shape.get("allowed", ()))
        request.filter.denied_item_ids.extend(self._id(*item) for item in shape.get("denied", ()))
        for name, conditions in shape.get("attributes", {}).items():
            getattr(request.filter, name).extend(AttributeValues(name=key, values=values) for key, values in conditions)
        if not request.filter.ByteSize():
            request.ClearField("filter")
        return request

    def tokens(self, request: RecommendRequest) -> int:
        """The tokens of its texts by the bundle's tokenizer; the recorded lengths may be another one's."""
        texts = [event.text for event in request.history] + [request.query]
        return sum(self._counter.served(text) for text in texts if text)

    def _event(self, kind: str, pseudonym: str, tokens: int, *original: str) -> Event:
        if kind == "text":
            return Event(text=self._text(pseudonym, tokens, *original))
        return Event(item_id=self._id(pseudonym, *original))

    def _id(self, pseudonym: str, *original: str) -> str:
        item_id = self._ids[int(self._random.integers(len(self._ids)))]
        return original[0] if original else self._assigned.setdefault(f"id {pseudonym}", item_id)

    def _text(self, pseudonym: str, tokens: int, *original: str) -> str:
        if original:
            return original[0]
        name = f"text {pseudonym}"
        if name not in self._assigned:
            self._assigned[name] = self._texts.draw(tokens, self._random)[0]
        return self._assigned[name]
