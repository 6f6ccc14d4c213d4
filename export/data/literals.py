"""Lists and bytes that were written as text, such as "['Action', 'Drama']", '["a", "b"]' and "b'Heat'".

Programs that write cells by Python's `str` leave them in CSV files. One rule for every table: such a cell counts as
what it denotes. Bytes of texts, titles and attributes are decoded and lists of attributes are read; where a list has no
place, the cell is refused as a list of JSONL is. Ids are never changed, so they are refused.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import dataclass, field

_LITERAL = r"b?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_BYTES = re.compile(r"b(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
_ARRAY = re.compile(rf"\[\s*{_LITERAL}(?:\s+{_LITERAL})*\s*\]", re.DOTALL)  # as NumPy writes it, without commas
_PIECE = re.compile(_LITERAL, re.DOTALL)
_PAIRS = {"[": "]", "(": ")", "{": "}"}
_SHOWN_CHARS = 60


def denoted(text: str) -> object:
    """The list, object or decoded bytes that `text` denotes in Python's or JSON's notation; else the text itself.

    Tuples and sets are lists, too. Bytes that are not UTF-8 stay bytes.
    """
    inner = text.strip()
    if not (_BYTES.fullmatch(inner) if inner[:1] == "b" else inner[-1:] == _PAIRS.get(inner[:1])):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an escape sequence that Python does not have
            found = _parse(inner)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return found if isinstance(found, list | dict) or inner[0] == "b" else text


def is_list_of_texts(text: str) -> bool:
    """Whether it denotes a list with a text in it: a title such as "[2]" is none."""
    found = denoted(text)
    return isinstance(found, list) and any(isinstance(value, str) for value in found)


def _parse(text: str) -> object:
    if _ARRAY.fullmatch(text):
        return [_decoded(ast.literal_eval(piece)) for piece in _PIECE.findall(text)]
    try:
        return json.loads(text)
    except ValueError:
        node = ast.parse(text, mode="eval").body
    if isinstance(node, ast.List | ast.Tuple | ast.Set):  # read one by one: a set would lose their order
        return [_decoded(ast.literal_eval(element)) for element in node.elts]
    return _decoded(ast.literal_eval(node))


def _decoded(value: object) -> object:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


@dataclass(slots=True)
class Conversions:
    """Cells of one table that were read as what they denote: by column and kind, how many, and the first."""

    _counts: dict[tuple[str, str], int] = field(default_factory=dict)
    _first: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, column: str, kind: str, where: str, cell: str) -> None:
        """Note one; `kind` is "lists" or "bytes", `where` the line."""
        key = (column, kind)
        self._counts[key] = self._counts.get(key, 0) + 1
        if key not in self._first:
            shown = repr(cell)
            self._first[key] = f"{where}: {shown if len(shown) <= _SHOWN_CHARS else f'{shown[:_SHOWN_CHARS]}...'}"

    def sentences(self) -> list[str]:
        """One for each column and kind."""
        return [
            f"{kind} written as text in {count:,} cell{'s' if count > 1 else ''} of {column} "
            f"(first: {self._first[column, kind]}): read as {kind}"
            for (column, kind), count in self._counts.items()
        ]
