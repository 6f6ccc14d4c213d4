"""How much each part contributes to the score of an item, and which event contributes most to the memory's part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from swiftrec.server.arrays import Floats, Positions, Vector, Vectors
from swiftrec.server.catalogue.blend import EXTRA_FEATURES, Scoring, ScoringInput, Weights
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.catalogue.memory import DECAY, EVENTS, FLOOR
from swiftrec.server.catalogue.sparse import values_at
from swiftrec.server.parts import PARTS


@dataclass(frozen=True, slots=True)
class Contribution:
    """The parts of the score of one item.

    Args:
        parts: the contribution of each of `server.parts.PARTS`, in that order; their sum is the score.
        event: index in `ScoringInput.items` of the event that contributes most to the memory's part; None if none does.
    """

    parts: Mapping[str, float]
    event: int | None


def contributions(
    scoring: Scoring, request: ScoringInput, compared: Vector, catalogue: Catalogue, positions: Positions
) -> list[Contribution]:
    """The contributions to the scores of items for one request.

    Args:
        scoring: the parts and their weights.
        request: data of the request.
        compared: the vector that items are compared with (`server.catalogue.blend.ScoreTerms.at`), [width].
        catalogue: has the items' vectors.
        positions: of the items, in any order, [n].
    """
    weights = scoring.weights(request)
    vectors = catalogue.vectors_at(positions)
    parts = _products(vectors, compared, catalogue.dimensions) | _boosts(scoring, weights, request, positions)
    by_event = _by_event(scoring, weights, request, positions)
    return [
        Contribution({part: float(parts[part][n]) for part in PARTS}, _strongest(by_event[:, n]))
        for n in range(len(positions))
    ]


def _products(vectors: Vectors, compared: Vector, dimensions: int) -> dict[str, Vector]:
    """The contributions of the parts that are products of vectors; the ranker's vector has `dimensions` entries."""
    bounds = {"ranker": (0, dimensions), "text": (dimensions, -EXTRA_FEATURES), "popularity": (-EXTRA_FEATURES, None)}
    return {part: vectors[:, begin:end] @ compared[begin:end] for part, (begin, end) in bounds.items()}


def _boosts(scoring: Scoring, weights: Weights, request: ScoringInput, positions: Positions) -> dict[str, Vector]:
    """The contributions of memory and words to each item."""
    memory, words = np.zeros((2, len(positions)), dtype=np.float32)
    for name, boosts in scoring.added(weights, request).items():
        part = words if name == "words" else memory
        part += boosts.at(positions)
    return {"memory": memory, "words": words}


def _strongest(added: Floats) -> int | None:
    """Index of the largest value; None if no value is positive."""
    return int(np.argmax(added)) if len(added) and added.max() > 0 else None


def _by_event(scoring: Scoring, weights: Weights, request: ScoringInput, positions: Positions) -> Floats:
    """The contribution of each event to the memory's part, [events that are items, items].

    Transitions contribute the logarithm of a sum: each event gets its share of the sum.
    """
    count = len(request.items)
    chances, near = np.zeros((count, len(positions))), np.zeros((count, len(positions)))
    for n, item in enumerate(request.items[:, None]):
        age = count - 1 - n
        if age < EVENTS:
            _, items, values = scoring.memory.next_chances([item])
            chances[n] = DECAY**age * values_at(items, values, positions)
        _, items, values = scoring.memory.near_weights([item])
        near[n] = values_at(items, values, positions)
    total = chances.sum(axis=0)
    odds = np.log1p(total / FLOOR) / np.where(total, total, 1)
    added: Floats = weights.transitions * odds * chances + weights.neighbours * near
    return added
