"""Columns of the tables: which ones each table has, and other names for them.

`--column item_id=movieId` reads the column `movieId` as `item_id`; if a column is missing, similar ones are suggested.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from swiftrec.export.data.order import OTHER_ORDERS

RATING, TIMESTAMP = "rating", "timestamp"
# An empty name, or one that pandas gives to row numbers: in Parquet, and for a column without a name in CSV.
_ROW_NUMBERS = re.compile(r"\s*|__index_level_\d+__|Unnamed: \d+")
_MAX_SUGGESTIONS = 2


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
    """Columns of one table: the required ones, the optional ones, and the role of all others (None: not read)."""

    required: Mapping[str, Role]
    optional: Mapping[str, Role]
    others: Role | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """The names of the required and the optional columns."""
        return (*self.required, *self.optional)

    def role(self, name: str) -> Role | None:
        """What the column `name` is for; None if it is not read, such as a column of row numbers."""
        if name in self.required:
            return self.required[name]
        return None if _ROW_NUMBERS.fullmatch(name) else self.optional.get(name, self.others)


ITEMS = Layout({"item_id": Role.ID, "text": Role.TEXT}, {"title": Role.TITLE}, Role.ATTRIBUTE)
INTERACTIONS = Layout({"user_id": Role.ID, "item_id": Role.ID, TIMESTAMP: Role.TIME}, {RATING: Role.RATING})
UNTIMED_INTERACTIONS = Layout({"user_id": Role.ID, "item_id": Role.ID}, {RATING: Role.RATING})
USERS = Layout({"user_id": Role.ID}, {}, Role.ATTRIBUTE)
TEXTS = Layout({"text": Role.TEXT}, {})

_NAMES = tuple(dict.fromkeys([*ITEMS.required, *ITEMS.optional, *INTERACTIONS.required, *INTERACTIONS.optional]))
# Names that public data sets use for a column, the likeliest first; in lower case, letters and digits only.
_ALIASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "item_id": (
            *("itemid", "movieid", "productid", "bookid", "articleid", "newsid", "trackid", "songid", "artistid"),
            *("animeid", "gameid", "appid", "videoid", "recipeid", "businessid", "contentid", "asin", "parentasin"),
            *("isbn", "sku", "iid", "item", "id"),
        ),
        "user_id": (
            *("userid", "customerid", "reviewerid", "visitorid", "memberid", "accountid", "clientid", "uid", "user"),
            *("customer", "reviewer", "username", "sessionid", "id"),
        ),
        "text": (
            *("description", "overview", "plot", "summary", "synopsis", "abstract", "content", "body", "title"),
            *("name", "itemname", "productname", "movietitle"),
        ),
        "timestamp": (
            *("time", "ts", "datetime", "date", "unixreviewtime", "reviewtime", "eventtime", "ratingtime"),
            *("createdat", "timestampms", "unixtime"),
        ),
    }
)


def _split_commas(given: object) -> object:
    return [part for part in given.split(",") if part.strip()] if isinstance(given, str) else given


def _require_pairs(given: list[str]) -> list[str]:
    for pair in given:
        name, _, column = pair.partition("=")
        if name not in _NAMES or not column:
            raise ValueError(f"{pair!r} is not NAME=COLUMN, where NAME is one of {', '.join(_NAMES)}")
    return given


ColumnFlags = Annotated[list[str], NoDecode, BeforeValidator(_split_commas), AfterValidator(_require_pairs)]
COLUMN_HELP = (
    "read the column COLUMN as NAME in each table that has it, such as item_id=movieId; repeat the flag for more "
    "columns (in the variable separate them by commas)"
)


@dataclass(slots=True)
class ColumnMap:
    """The pairs of `--column`; `used` are those whose column is in a table."""

    pairs: tuple[tuple[str, str], ...] = ()
    used: set[tuple[str, str]] = field(default_factory=set)
    _layouts: list[Layout] = field(default_factory=list)

    @classmethod
    def parse(cls, flags: Sequence[str]) -> ColumnMap:
        """From flags of the form NAME=COLUMN."""
        pairs = (flag.partition("=") for flag in flags)
        return cls(tuple((name, column) for name, _, column in pairs))

    def names_for(self, layout: Layout) -> dict[str, str]:
        """Column -> the name by which a table with this layout reads it."""
        self._layouts.append(layout)
        return {column: name for name, column in self.pairs if name in layout.known}

    def mark_used(self, columns: Iterable[str], names: Mapping[str, str]) -> None:
        """Record that a table with the result `names` of `names_for` has these columns."""
        self.used |= {(names[column], column) for column in columns if column in names}

    def unused(self) -> list[str]:
        """The flags whose column is in none of the tables that could have it."""
        known = {name for layout in self._layouts for name in layout.known}
        return [f"{name}={column}" for name, column in self.pairs if (name, column) not in self.used and name in known]


def missing_column(name: str, columns: Collection[str]) -> str:
    """A sentence on a column that is missing from `columns`, with the flag for the one that is probably meant."""
    sentence = f"column {name} is missing"
    if likely := similar_columns(name, columns):
        verb = "looks" if len(likely) == 1 else "look"
        sentence += f"; {' and '.join(likely)} {verb} like it: --column {name}={shlex.quote(likely[0])}"
    sentence += f"; if there are no times, {OTHER_ORDERS}" if name == TIMESTAMP else ""
    return f"{sentence}; the columns are: {', '.join(map(str, columns)) or 'none'}"


def similar_columns(name: str, columns: Collection[str]) -> list[str]:
    """The columns that may be meant by `name`, the likeliest first."""
    plain = {column: _plain(column) for column in columns if column not in _NAMES or column in ITEMS.optional}
    aliases = [_plain(name), *_ALIASES.get(name, ())]
    known = sorted((c for c in plain if plain[c] in aliases), key=lambda c: aliases.index(plain[c]))
    near = difflib.get_close_matches(_plain(name), [*plain.values()], 1)
    close = [column for column in plain if plain[column] in near]
    ids = [column for column in plain if name == "item_id" and plain[column].endswith("id")]
    ids = [column for column in ids if plain[column] not in _ALIASES["user_id"]]
    return list(dict.fromkeys([*known, *close, *ids]))[:_MAX_SUGGESTIONS]


def _plain(column: str) -> str:
    """Lower case, letters and digits only, without the type that RecBole's files append after a colon."""
    return re.sub(r"[^a-z0-9]", "", column.partition(":")[0].lower())
