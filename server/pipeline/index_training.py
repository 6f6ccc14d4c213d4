"""Synthetic users, sampled from the catalogue, to train an approximate index on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Positions, Vector, Vectors
from swiftrec.server.catalogue.blend import Scoring, ScoringInput
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.domain import Item
from swiftrec.server.models.networks import EventKind, RankerModel, UserSequence, ranker_half, sentence_half

_BATCHES, _USERS = 64, 32  # number of batches, and users in a batch
_POOL_ITEMS, _NEAR_ITEMS = 1_024, 16  # candidates of a batch of users, and neighbours of each item among them
_MAX_TASTES = 3  # of one user
_MAX_EVENTS = 32
_MAX_QUERY_WORDS = 8  # of a description


def index_training_users(
    ranker: RankerModel,
    encode: Callable[[list[str]], Sequence[Vector]],
    catalogue: Catalogue,
    scoring: Scoring,
    max_history: int,
) -> NDArray[np.float32]:
    """User vectors of synthetic histories, from a fixed seed: float32 [users, width].

    Half of the histories are random, half consist of neighbours of a few items. Half of each kind have a query, the
    title of an item or some words of its text; half of these have no events.

    Args:
        ranker: makes user vectors.
        encode: encodes texts, both halves.
        catalogue: has the items.
        scoring: the weights.
        max_history: events that the ranker reads.
    """
    random, longest = np.random.default_rng(0), min(_MAX_EVENTS, max_history)
    user_vectors: list[Vectors] = []
    for _ in range(_BATCHES):
        sampled = list(_sample_histories(catalogue, catalogue.sample(_POOL_ITEMS, random), longest, random))
        query_vectors = iter(encode([query for _, query in sampled if query]))
        users = [_user(catalogue, items, query, next(query_vectors) if query else None) for items, query in sampled]
        ranked = ranker.run([sequence for sequence, _ in users])
        all_terms = scoring.terms([scoring_input for _, scoring_input in users])
        user_vectors += [terms.at(user) for terms, user in zip(all_terms, ranked, strict=True)]
    return np.array(user_vectors)


def _sample_histories(
    catalogue: Catalogue, pool: Positions, longest: int, random: np.random.Generator
) -> Iterator[tuple[Positions, str]]:
    """The items of the history and the query ("" for none) of each user."""
    vectors = np.array([catalogue.event_vector(n) for n in pool])
    for number in range(_USERS):
        events = random.integers(len(pool), size=random.integers(1, longest + 1))
        if number % 4 < 2:
            likes = vectors[events[:_MAX_TASTES]] @ vectors.T
            near = np.argpartition(-likes, _NEAR_ITEMS, axis=1)[:, :_NEAR_ITEMS]
            events = near[random.integers(len(near), size=len(events)), random.integers(_NEAR_ITEMS, size=len(events))]
        if number % 2 == 0:
            yield pool[events], ""
        else:
            query = _query(catalogue.items[int(pool[events[-1]])], random, is_title=number % 8 > 4)
            yield pool[events[:-1] if number % 16 < 8 else events[:0]], query


def _query(item: Item, random: np.random.Generator, *, is_title: bool) -> str:
    """A query for an item: its title or some words of its text; a space if it has none."""
    words = item.text.split()
    begin, size = random.integers(max(1, len(words) - 1)), random.integers(1, _MAX_QUERY_WORDS + 1)
    return (item.title if is_title else " ".join(words[begin : begin + size])) or " "


def _user(
    catalogue: Catalogue, items: Positions, query: str, vector: Vector | None
) -> tuple[UserSequence, ScoringInput]:
    """The inputs of the ranker and of the other parts of the score; `vector` is that of the query."""
    vectors, kinds = [catalogue.event_vector(position) for position in items.tolist()], [EventKind.ITEM] * len(items)
    scoring_input = ScoringInput(len(items), items, catalogue.sentences[items], query)
    if vector is not None:
        vectors.append(ranker_half(vector, catalogue.dimensions))
        kinds.append(EventKind.QUERY)
        scoring_input = replace(scoring_input, query_sentence=sentence_half(vector, catalogue.dimensions))
    return UserSequence(vectors, kinds), scoring_input
