"""The requests: seven seeded workloads, versioned. A change of what one sends raises its version.

| name | version | one request |
|---|---|---|
| words | 2 | Encode of one text of 3 to 60 words, each length equally often |
| query | 1 | Recommend: a query as in *words* and nothing else: the job of `swiftrec bench peers` |
| short | 1 | Recommend: a query of 3 to 10 words after 0 to 20 item ids |
| mixed | 1 | Recommend: a query of log-normal length (median 16 tokens, sigma .8, 4 to 128) after 0 to 20 item ids |
| history | 1 | Recommend: 1 to 50 item ids, no text |
| hot | 1 | as mixed, the queries drawn by Zipf's law (exponent 1.0) from 10,000 texts: what a cache helps with |
| list | 1 | BatchRecommend of 32 requests of mixed |

Top-10 each, no filter. Words and ids are the bundle's. Two seeds give different requests of the same kind; the 10,000
texts of *hot* are the same for every seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.item_texts import (
    Items,
    TokenCounter,
    TokenTexts,
    log_normal_lengths,
    mixed_texts,
)
from swiftrec.server.pb.swiftrec.v1 import encoder_pb2, recommender_pb2
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendRequest

MethodName = Literal["encode", "recommend", "batch"]
Name = Literal["words", "query", "short", "mixed", "history", "hot", "list"]
PATHS: dict[MethodName, str] = {
    "encode": "/swiftrec.v1.EncoderService/Encode",
    "recommend": "/swiftrec.v1.RecommenderService/Recommend",
    "batch": "/swiftrec.v1.RecommenderService/BatchRecommend",
}
BATCH_ENTRIES = 32
_SHORT_WORDS = (3, 10)
_MEDIAN_TOKENS, _SIGMA = 16.0, 0.8
_MAX_IDS, _MAX_HISTORY_IDS = 20, 50
_HOT_TEXTS, _HOT_SEED, _ZIPF = 10_000, 7, 1.0


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """A workload: version of its definition, method, recommendations (or texts) in one request.

    `repeats`: its texts are repeated, so it is measured with the server's cache on; the others with it off.
    """

    version: int
    method: MethodName
    entries: int = 1
    repeats: bool = False


WORKLOADS: dict[Name, WorkloadSpec] = {
    "words": WorkloadSpec(2, "encode"),
    "query": WorkloadSpec(1, "recommend"),
    "short": WorkloadSpec(1, "recommend"),
    "mixed": WorkloadSpec(1, "recommend"),
    "history": WorkloadSpec(1, "recommend"),
    "hot": WorkloadSpec(1, "recommend", repeats=True),
    "list": WorkloadSpec(1, "batch", BATCH_ENTRIES),
}


@dataclass(frozen=True, slots=True)
class Requests:
    """Serialised requests, with the tokens of their texts after truncation and their number of recommendations."""

    method: MethodName
    payloads: list[bytes]
    tokens: NDArray[np.int32]
    entries: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.payloads)

    def share(self, part: int, parts: int) -> Requests:
        """Every `parts`-th request, from number `part` on."""
        return self._slice(slice(part, None, parts))

    def first(self, number: int | None) -> Requests:
        """The first `number` requests, or all."""
        return self._slice(slice(number))

    def _slice(self, keep: slice) -> Requests:
        return Requests(self.method, self.payloads[keep], self.tokens[keep], self.entries[keep])


def make(name: Name, bundle: Path, number: int, seed: int) -> Requests:
    """`number` requests of a workload from the bundle at `bundle`.

    Raises:
        BundleError: there is no bundle.
        ValueError: the catalogue is too small.
    """
    items = Items(bundle)
    if name in {"words", "query"}:
        return _words(items, number, seed, WORKLOADS[name].method)
    messages, tokens = _Recommends(items).make(name, number * WORKLOADS[name].entries, seed)
    if name != "list":
        return _requests("recommend", messages, tokens, 1)
    lists = [
        recommender_pb2.BatchRecommendRequest(requests=messages[n : n + BATCH_ENTRIES])
        for n in range(0, len(messages), BATCH_ENTRIES)
    ]
    sums = [sum(tokens[n : n + BATCH_ENTRIES]) for n in range(0, len(tokens), BATCH_ENTRIES)]
    return _requests("batch", lists, sums, BATCH_ENTRIES)


def _requests(
    method: MethodName,
    messages: Sequence[RecommendRequest | recommender_pb2.BatchRecommendRequest | encoder_pb2.EncodeRequest],
    tokens: Sequence[int],
    entries: int,
) -> Requests:
    payloads = [message.SerializeToString() for message in messages]
    return Requests(method, payloads, np.array(tokens, np.int32), np.full(len(payloads), entries, np.int32))


def _words(items: Items, number: int, seed: int, method: MethodName) -> Requests:
    texts, counter = mixed_texts(items.texts, number, seed), TokenCounter(items.folder)
    messages = [
        encoder_pb2.EncodeRequest(texts=[text]) if method == "encode" else RecommendRequest(query=text)
        for text in texts
    ]
    return _requests(method, messages, [counter.served(text) for text in texts], 1)


class _Recommends:
    """Makes Recommend requests of the words and ids of a catalogue."""

    def __init__(self, items: Items) -> None:
        self._ids = items.ids
        self._counter = TokenCounter(items.folder)
        self._texts = TokenTexts(items, self._counter)
        self._max_tokens = self._counter.max_tokens

    def make(self, name: Name, number: int, seed: int) -> tuple[list[RecommendRequest], list[int]]:
        """Requests and the tokens of their queries."""
        random = np.random.default_rng(seed)
        if name == "history":
            lengths = random.integers(1, _MAX_HISTORY_IDS + 1, size=number)
            return [RecommendRequest(history=self._events(int(n), random)) for n in lengths], [0] * number
        queries = self._queries(name, number, random)
        messages = [
            RecommendRequest(history=self._events(int(n), random), query=query)
            for (query, _), n in zip(queries, random.integers(_MAX_IDS + 1, size=number), strict=True)
        ]
        return messages, [tokens for _, tokens in queries]

    def _queries(self, name: Name, number: int, random: np.random.Generator) -> list[tuple[str, int]]:
        if name == "short":
            lengths = random.integers(_SHORT_WORDS[0], _SHORT_WORDS[1] + 1, size=number)
            return [self._counted(self._texts.of_words(int(length), random)) for length in lengths]
        if name == "hot":
            pool = self._mixed(_HOT_TEXTS, np.random.default_rng(_HOT_SEED))
            return [pool[n] for n in zipf(_HOT_TEXTS, _ZIPF, number, random)]
        return self._mixed(number, random)

    def _mixed(self, number: int, random: np.random.Generator) -> list[tuple[str, int]]:
        lengths = log_normal_lengths(number, _MEDIAN_TOKENS, _SIGMA, self._max_tokens, random)
        return [self._texts.draw(int(length), random) for length in lengths]

    def _counted(self, text: str) -> tuple[str, int]:
        return text, self._counter.served(text)

    def _events(self, number: int, random: np.random.Generator) -> list[recommender_pb2.Event]:
        return [recommender_pb2.Event(item_id=self._ids[n]) for n in random.integers(len(self._ids), size=number)]


def zipf(size: int, exponent: float, number: int, random: np.random.Generator) -> NDArray[np.int64]:
    """`number` draws from 0..`size` - 1, the n-th as often as (n + 1) ** -exponent."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return random.choice(size, size=number, p=weights / weights.sum())
