"""A sample of users, made up from the catalogue: what an approximate index is made for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from server.catalogue.blend import Known, Query, Scoring
from server.catalogue.catalogue import Catalogue
from server.catalogue.filters import Positions
from server.models.ranker import Kind, RankerModel, UserSequence

_BATCHES, _USERS = 64, 32
_POOL, _NEAR = 1_024, 16  # items that a batch of users chooses from, and those of them that count as near one
_TASTES = 3  # at most, of one user
_LONGEST = 32  # events
_DESCRIPTION = " "  # a query without words: boosts are no part of what is compared

Vector = NDArray[np.float32]


def sample_users(ranker: RankerModel, catalogue: Catalogue, scoring: Scoring, max_history: int) -> NDArray[np.float32]:
    """What items are compared with for users of seeded histories, float32 [users, width].

    Every other history is of anything, the others are of a few tastes. Half of each kind ends with a query, half of
    these with a title, and half of either have nothing but the query.
    """
    random, longest = np.random.default_rng(0), min(_LONGEST, max_history)
    found: list[NDArray[np.float32]] = []
    for _ in range(_BATCHES):
        users = list(_users(catalogue, catalogue.draw(_POOL, random), longest, random))
        ranked = ranker.run([sequence for sequence, _ in users])
        found += [scoring.aim(known).at(user) for (_, known), user in zip(users, ranked, strict=True)]
    return np.array(found)


def _users(
    catalogue: Catalogue, pool: Positions, longest: int, random: np.random.Generator
) -> Iterator[tuple[UserSequence, Known]]:
    vectors = np.array([catalogue.event_vector(n) for n in pool])
    for number in range(_USERS):
        events = random.integers(len(pool), size=random.integers(1, longest + 1))
        if number % 4 < 2:
            likes = vectors[events[:_TASTES]] @ vectors.T
            near = np.argpartition(-likes, _NEAR, axis=1)[:, :_NEAR]
            events = near[random.integers(len(near), size=len(events)), random.integers(_NEAR, size=len(events))]
        query: Query = "none" if number % 2 == 0 else "title" if number % 8 > 4 else "description"
        if query != "none" and number % 16 > 8:
            events = events[-1:]
        yield _user(catalogue, pool[events], list(vectors[events]), query)


def _user(catalogue: Catalogue, items: Positions, vectors: list[Vector], query: Query) -> tuple[UserSequence, Known]:
    """A user of these events; the last one stands for the query if there is one."""
    kinds, sentences = [Kind.ITEM] * len(items), catalogue.sentences[items]
    if query == "none":
        return UserSequence(vectors, kinds), Known(len(items), items, sentences)
    vectors[-1], kinds[-1] = vectors[-1] / max(1e-9, float(np.linalg.norm(vectors[-1]))), Kind.QUERY
    text = catalogue.title(int(items[-1])) if query == "title" else ""
    known = Known(len(items) - 1, items[:-1], sentences[:-1], text or _DESCRIPTION, sentences[-1])
    return UserSequence(vectors, kinds), known
