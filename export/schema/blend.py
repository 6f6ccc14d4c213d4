"""`blend.json`: the weights, the contribution of each part by kind of request, and when a text names an item."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from swiftrec.export.schema.record import Record
from swiftrec.server.catalogue.blend import Query
from swiftrec.server.catalogue.history import NEVER

BLEND = "blend.json"


class GroupRecord(Record):
    """A kind of request: weights by signal, and mean log-likelihoods of the targets.

    `without` has the log-likelihood of the same weights with one part switched off: the difference is the part's
    contribution.
    """

    query: Query
    events: int
    cases: int
    weights: dict[str, float]
    likelihood: float
    without: dict[str, float]

    def __str__(self) -> str:
        events = f"{self.events} events or more" if self.events else "no events"
        query = {"none": "", "description": "a description and ", "title": "a title and "}[self.query]
        return f"{query}{events}"

    @property
    def contributions(self) -> dict[str, float]:
        """By how much the likelihood falls without each part that has a weight."""
        return {part: self.likelihood - rest for part, rest in self.without.items() if rest != self.likelihood}


class BlendRecord(Record):
    """What stage `blend` fitted; without groups the ranker alone counts."""

    groups: list[GroupRecord] = []
    same_item: float = NEVER

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what stage `blend` wrote into its folder."""
        return cls.model_validate_json((folder / BLEND).read_text())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """As `server.catalogue.blend.Blend` reads it."""
        return [{"query": g.query, "events": g.events, "weights": g.weights} for g in self.groups]
