"""The users that an approximate index is made for: with histories, with queries of both kinds, and with both."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.blend import FACTS, Blend, Row, Scoring, Weights
from swiftrec.server.catalogue.catalogue import Catalogue, Item
from swiftrec.server.catalogue.sparse import Memory
from swiftrec.server.models.networks import UserSequence
from swiftrec.server.pipeline.users import sample_users
from tests.export import tables

_ITEMS, _RANKER, _SENTENCE = 60, 5, 4
_TITLES = [f"Film number{n} (1999)" for n in range(_ITEMS)]
_KINDS = {"none": 1.0, "description": 2.0, "title": 3.0}  # and what the popularity weighs


class FakeRanker:
    """A user is the sum of the events."""

    def run(self, jobs: list[UserSequence]) -> list[NDArray[np.float32]]:
        return [np.add.reduce([np.array(vector) for vector in job.vectors]) for job in jobs]


def test_every_kind_of_request_is_among_the_users() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(_ITEMS, _RANKER)).astype(np.float32)
    sentences = random.normal(size=(_ITEMS, _SENTENCE)).astype(np.float32)
    items = [Item(str(n), title, f"{title} a drama of old days", {}, n) for n, title in enumerate(_TITLES)]
    rows = [
        Row(cast(Any, query), events, Weights(ranker=1, popularity=kind, newcomer=float(events > 0), events=0.1))
        for query, kind in _KINDS.items()
        for events in (0, 1)
    ]
    words = tables.scoring(_TITLES).words
    scoring, encoded = Scoring(Blend(rows), Memory.empty(_ITEMS), words, _ITEMS), list[str]()

    def encode(texts: list[str]) -> list[NDArray[np.float32]]:
        encoded.extend(texts)
        return [np.ones(_RANKER + _SENTENCE, np.float32) for _ in texts]

    users = sample_users(cast(Any, FakeRanker()), encode, Catalogue(items, vectors, sentences), scoring, 8)
    found = {(kind, has_history) for kind, has_history in users[:, -FACTS:].tolist()}
    assert found == {(kind, has_history) for kind in _KINDS.values() for has_history in (0, 1)} - {(1, 0)}
    assert set(_TITLES) & set(encoded)
    assert any(text in items[7].text and text not in _TITLES for text in encoded)
