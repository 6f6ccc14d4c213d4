"""A sample of users, made up from the catalogue: what an approximate index is made for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.blend import Known, Scoring
from swiftrec.server.catalogue.catalogue import Catalogue, Item
from swiftrec.server.catalogue.sparse import Positions
from swiftrec.server.models.networks import Kind, RankerModel, UserSequence, ranker_half, sentence_half

_BATCHES, _USERS = 64, 32
_POOL, _NEAR = 1_024, 16  # items that a batch of users chooses from, and those of them that count as near one
_TASTES = 3  # at most, of one user
_LONGEST = 32  # events
_QUERY_WORDS = 8  # at most, of a query that describes

Vector = NDArray[np.float32]
Encode = Callable[[list[str]], Sequence[Vector]]


def sample_users(
    ranker: RankerModel, encode: Encode, catalogue: Catalogue, scoring: Scoring, max_history: int
) -> NDArray[np.float32]:
    """What items are compared with for users of seeded histories, float32 [users, width].

    Every other history is of anything, the others are of a few tastes. Half of each kind ends with a query, the title
    of an item or some words of its text; half of these have nothing but the query.

    Args:
        ranker: makes user vectors.
        encode: gives vectors of texts, both halves.
        catalogue: what users choose from.
        scoring: the weights.
        max_history: events that the ranker reads.
    """
    random, longest = np.random.default_rng(0), min(_LONGEST, max_history)
    found: list[NDArray[np.float32]] = []
    for _ in range(_BATCHES):
        drawn = list(_drawn(catalogue, catalogue.draw(_POOL, random), longest, random))
        asked = iter(encode([query for _, query in drawn if query]))
        users = [_user(catalogue, items, query, next(asked) if query else None) for items, query in drawn]
        ranked = ranker.run([sequence for sequence, _ in users])
        aims = scoring.aims([known for _, known in users])
        found += [aim.at(user) for aim, user in zip(aims, ranked, strict=True)]
    return np.array(found)


def _drawn(
    catalogue: Catalogue, pool: Positions, longest: int, random: np.random.Generator
) -> Iterator[tuple[Positions, str]]:
    """The items of each user's history and the query, empty for none."""
    vectors = np.array([catalogue.event_vector(n) for n in pool])
    for number in range(_USERS):
        events = random.integers(len(pool), size=random.integers(1, longest + 1))
        if number % 4 < 2:
            likes = vectors[events[:_TASTES]] @ vectors.T
            near = np.argpartition(-likes, _NEAR, axis=1)[:, :_NEAR]
            events = near[random.integers(len(near), size=len(events)), random.integers(_NEAR, size=len(events))]
        if number % 2 == 0:
            yield pool[events], ""
        else:
            query = _query(catalogue.items[int(pool[events[-1]])], random, is_title=number % 8 > 4)
            yield pool[events[:-1] if number % 16 < 8 else events[:0]], query


def _query(item: Item, random: np.random.Generator, *, is_title: bool) -> str:
    """What asks for an item: its title or some words of its text; a blank if it has none."""
    words = item.text.split()
    begin, size = random.integers(max(1, len(words) - 1)), random.integers(1, _QUERY_WORDS + 1)
    return (item.title if is_title else " ".join(words[begin : begin + size])) or " "


def _user(catalogue: Catalogue, items: Positions, query: str, vector: Vector | None) -> tuple[UserSequence, Known]:
    """What the ranker and the other parts read; `vector` is the query's."""
    vectors, kinds = [catalogue.event_vector(position) for position in items.tolist()], [Kind.ITEM] * len(items)
    known = Known(len(items), items, catalogue.sentences[items], query)
    if vector is not None:
        vectors.append(ranker_half(vector, catalogue.dimensions))
        kinds.append(Kind.QUERY)
        known = replace(known, query_sentence=sentence_half(vector, catalogue.dimensions))
    return UserSequence(vectors, kinds), known
