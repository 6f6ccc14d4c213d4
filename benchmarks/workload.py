"""Requests to measure with: texts of mixed length from a bundle's own words, seeded, none twice."""

from __future__ import annotations

import random
from pathlib import Path

from server.catalogue.catalogue import Catalogue
from server.pb.swiftrec.v1 import encoder_pb2, recommender_pb2

SHORTEST, LONGEST = 3, 60  # words


def mixed_texts(folder: Path, number: int, seed: int = 7) -> list[str]:
    """`number` texts of 3 to 60 words out of the bundle's item texts; no text repeats, so that no cache helps."""
    words = [word for item in Catalogue.load(folder).items for word in item.text.split()]
    rng = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    texts: dict[str, None] = {}
    while len(texts) < number:
        texts[" ".join(rng.choices(words, k=rng.randint(SHORTEST, LONGEST)))] = None
    return list(texts)


def encode_requests(texts: list[str]) -> list[bytes]:
    """One Encode request a text."""
    return [encoder_pb2.EncodeRequest(texts=[text]).SerializeToString() for text in texts]


def recommend_requests(texts: list[str]) -> list[bytes]:
    """One Recommend request a text, as its query."""
    return [recommender_pb2.RecommendRequest(query=text).SerializeToString() for text in texts]
