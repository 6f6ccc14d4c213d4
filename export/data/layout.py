"""The tables of a data set: which columns each has, and what each column is for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

# No name, or one that pandas gives to row numbers: in Parquet, and when it reads a column without a name from CSV.
_ROW_NUMBERS = re.compile(r"\s*|__index_level_\d+__|Unnamed: \d+")


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
        """What the column `name` is for; None if it is not read, such as a column of row numbers."""
        if name in self.needed:
            return self.needed[name]
        return None if _ROW_NUMBERS.fullmatch(name) else self.optional.get(name, self.others)


RATING, TIMESTAMP = "rating", "timestamp"

ITEMS = Layout({"item_id": Role.ID, "text": Role.TEXT}, {"title": Role.TITLE}, Role.ATTRIBUTE)
INTERACTIONS = Layout({"user_id": Role.ID, "item_id": Role.ID, TIMESTAMP: Role.TIME}, {RATING: Role.RATING})
UNTIMED_INTERACTIONS = Layout({"user_id": Role.ID, "item_id": Role.ID}, {RATING: Role.RATING})
USERS = Layout({"user_id": Role.ID}, {}, Role.ATTRIBUTE)
TEXTS = Layout({"text": Role.TEXT}, {})
