"""What is asked: seeded texts of mixed length from the bundle's own items, no two alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from server.models.bundle import find_bundle
from server.pb.swiftrec.v1 import encoder_pb2, recommender_pb2

Method = Literal["encode", "recommend"]
PATHS: dict[Method, str] = {
    "encode": "/swiftrec.v1.EncoderService/Encode",
    "recommend": "/swiftrec.v1.RecommenderService/Recommend",
}
FEWEST_WORDS, MOST_WORDS = 3, 60
_HISTORY = 20
_TRIES = 1_000


def item_texts(bundle: Path) -> list[str]:
    """The texts of the catalogue of the bundle at `bundle` (or the highest version below it)."""
    return [row["text"] for row in _items(bundle)]


def texts(bundle: Path, number: int, seed: int) -> list[str]:
    """`number` different texts of 3 to 60 words, each length as often.

    Raises:
        ValueError: the catalogue does not have so many.
    """
    return mixed_texts(item_texts(bundle), number, seed)


def mixed_texts(sources: Sequence[str], number: int, seed: int) -> list[str]:
    """Join sources in random order, and cut from a random word on.

    Each 58 texts have every length once, in random order, so that two windows of a run do the same work. A longer
    workload of the same seed begins with the shorter one.

    Raises:
        ValueError: the sources do not give so many different texts.
    """
    words = [text.split() for text in sources if text.split()]
    random = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < number:
        for length in random.permutation(np.arange(FEWEST_WORDS, MOST_WORDS + 1))[: number - len(made)]:
            made[_fresh(words, int(length), random, made)] = None
    return list(made)


def requests(bundle: Path, method: Method, number: int, seed: int) -> list[bytes]:
    """Serialised requests, one text each; a Recommend also brings a history of up to 20 item ids."""
    queries = texts(bundle, number, seed)
    if method == "encode":
        return [encoder_pb2.EncodeRequest(texts=[text]).SerializeToString() for text in queries]
    make = _recommend([str(row["id"]) for row in _items(bundle)], seed)
    return [make(text) for text in queries]


def _recommend(ids: Sequence[str], seed: int) -> Callable[[str], bytes]:
    random = np.random.default_rng(seed + 1)

    def make(query: str) -> bytes:
        chosen = random.integers(len(ids), size=random.integers(_HISTORY + 1))
        history = [recommender_pb2.Event(item_id=ids[n]) for n in chosen]
        return recommender_pb2.RecommendRequest(history=history, query=query).SerializeToString()

    return make


def _fresh(words: Sequence[Sequence[str]], length: int, random: np.random.Generator, made: Container[str]) -> str:
    """A text of `length` words that was not made before."""
    for _ in range(_TRIES):
        text = _text(words, length, random)
        if text not in made:
            return text
    raise ValueError(f"the items do not give enough different texts of {length} words")


def _text(words: Sequence[Sequence[str]], length: int, random: np.random.Generator) -> str:
    first = words[int(random.integers(len(words)))]
    text = list(first[int(random.integers(len(first))) :])
    while len(text) < length:
        text += words[int(random.integers(len(words)))]
    return " ".join(text[:length])


def _items(bundle: Path) -> list[dict[str, str]]:
    with (find_bundle(bundle) / "items.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
