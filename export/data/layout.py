"""The tables of a data set: which columns each has, and what each column is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Role(Enum):
    """What a column is for; the value names it in messages."""

    ID = "an id"
    TEXT = "a text"
    TITLE = "a title"
    TIME = "a time"
    RATING = "a rating"
    ATTRIBUTE = "an attribute"


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of one table: those that it must have, those that it may have, and the role of all others, if any."""

    needed: Mapping[str, Role]
    optional: Mapping[str, Role]
    others: Role | None = None

    def role(self, name: str) -> Role | None:
        """What the column `name` is for; None if it is not read. A column without a name is a row number."""
        if name in self.needed:
            return self.needed[name]
        return self.optional.get(name, self.others) if name else None


RATING = "rating"

ITEMS = Layout({"item_id": Role.ID, "text": Role.TEXT}, {"title": Role.TITLE}, Role.ATTRIBUTE)
INTERACTIONS = Layout({"user_id": Role.ID, "item_id": Role.ID, "timestamp": Role.TIME}, {RATING: Role.RATING})
USERS = Layout({"user_id": Role.ID}, {}, Role.ATTRIBUTE)
TEXTS = Layout({"text": Role.TEXT}, {})
