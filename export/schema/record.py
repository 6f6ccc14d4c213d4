"""The base of all records, and the numbers that most of them hold."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Written and read without loss; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean over users or queries and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Exposure:
    """Which items a recommender shows, over the top tens of all cases.

    Args:
        coverage: share of the catalogue that is in at least one list.
        gini: how unevenly items are shown; 0 if all are shown equally often, 1 if every list has the same item.
        diversity: 1 - mean cosine between two items of the same list, by the frozen encoder's vectors; lists of one
            item are left out.
        novelty: mean of -log2(share of the known events) of the shown items; higher means less known items.
        by_popularity: share of the shown items in each tenth of the catalogue, the most popular tenth first.
    """

    coverage: float
    gini: float
    diversity: float
    novelty: float
    by_popularity: list[float]
