"""Columns under other names: `--column item_id=movieId`, and the guess which column is meant where one is missing."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from swiftrec.export.data.layout import INTERACTIONS, ITEMS, TIMESTAMP, Layout
from swiftrec.export.data.order import OTHER_ORDERS

_MAX_CANDIDATES = 2
_NAMES = tuple(dict.fromkeys([*ITEMS.needed, *ITEMS.optional, *INTERACTIONS.needed, *INTERACTIONS.optional]))

# Names that public data sets have for a column, the surest first; in lower case, letters and digits only.
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
    """Refuse what is not NAME=COLUMN.

    Raises:
        ValueError: says which one, and what it should be.
    """
    for pair in given:
        name, _, column = pair.partition("=")
        if name not in _NAMES or not column:
            raise ValueError(f"{pair!r} is not NAME=COLUMN, where NAME is one of {', '.join(_NAMES)}")
    return given


ColumnFlags = Annotated[list[str], NoDecode, BeforeValidator(_split_commas), AfterValidator(_require_pairs)]
COLUMN_HELP = (
    "read the column COLUMN as NAME in each table that has it, such as item_id=movieId; give the flag again for more "
    "(in the variable put commas between them)"
)


@dataclass(slots=True)
class ColumnMap:
    """The mapping of `--column`; `used` are the pairs whose column was found in a table."""

    pairs: tuple[tuple[str, str], ...] = ()
    used: set[tuple[str, str]] = field(default_factory=set)
    _layouts: list[Layout] = field(default_factory=list)

    @classmethod
    def parse(cls, flags: Sequence[str]) -> ColumnMap:
        """From flags that are NAME=COLUMN."""
        pairs = (flag.partition("=") for flag in flags)
        return cls(tuple((name, column) for name, _, column in pairs))

    def of(self, layout: Layout) -> dict[str, str]:
        """Column -> the name that a table of this layout reads it by."""
        self._layouts.append(layout)
        known = {*layout.needed, *layout.optional}
        return {column: name for name, column in self.pairs if name in known}

    def mark(self, columns: Iterable[str], names: Mapping[str, str]) -> None:
        """A table that reads columns by `names` has these."""
        self.used |= {(names[column], column) for column in columns if column in names}

    def unused(self) -> list[str]:
        """The flags whose column is in none of the tables that could have it."""
        known = {name for layout in self._layouts for name in (*layout.needed, *layout.optional)}
        return [f"{name}={column}" for name, column in self.pairs if (name, column) not in self.used and name in known]


def missing(name: str, columns: Collection[str]) -> str:
    """A sentence on a column that is missing from `columns`, with the flag for those that look like it."""
    likely = candidates(name, columns)
    words = f"column {name} is missing"
    if likely:
        verb = "looks" if len(likely) == 1 else "look"
        words += f"; {' and '.join(likely)} {verb} like it: --column {name}={shlex.quote(likely[0])}"
    words += f"; if there are no times, {OTHER_ORDERS}" if name == TIMESTAMP else ""
    return f"{words}; there are: {', '.join(map(str, columns)) or 'none'}"


def candidates(name: str, columns: Collection[str]) -> list[str]:
    """The columns that may be meant by `name`, the likeliest first."""
    plain = {column: _plain(column) for column in columns if column not in _NAMES or column in ITEMS.optional}
    aliases = [_plain(name), *_ALIASES.get(name, ())]
    known = sorted((c for c in plain if plain[c] in aliases), key=lambda c: aliases.index(plain[c]))
    near = difflib.get_close_matches(_plain(name), [*plain.values()], 1)
    close = [column for column in plain if plain[column] in near]
    ids = [column for column in plain if name == "item_id" and plain[column].endswith("id")]
    ids = [column for column in ids if plain[column] not in _ALIASES["user_id"]]
    return list(dict.fromkeys([*known, *close, *ids]))[:_MAX_CANDIDATES]


def _plain(column: str) -> str:
    """Lower case, letters and digits only, without the type that RecBole's files name behind a colon."""
    return re.sub(r"[^a-z0-9]", "", column.partition(":")[0].lower())
