"""Lists and bytes that were written as text, such as "['Action', 'Drama']", '["a", "b"]' and "b'Heat'".

Programs that write cells with Python's `str` leave such text in CSV files. The cell is read as the value that it
denotes: bytes of texts, titles and attributes are decoded, lists of attributes are read, and a list in another column
is refused like a JSON list. Ids are never changed, so such ids are refused.
"""

from __future__ import annotations

import ast
import json
import re
import warnings

_LITERAL = r"b?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")"
_BYTES = re.compile(r"b(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.DOTALL)
_NUMPY_ARRAY = re.compile(rf"\[\s*{_LITERAL}(?:\s+{_LITERAL})*\s*\]", re.DOTALL)  # printed without commas
_NUMPY_ELEMENT = re.compile(_LITERAL, re.DOTALL)
_CLOSING = {"[": "]", "(": ")", "{": "}"}


def parse_literal(text: str) -> object:
    """The list, object or decoded bytes that `text` denotes in Python's or JSON's notation; else the text itself.

    Tuples and sets become lists. Bytes that are not UTF-8 stay bytes.
    """
    inner = text.strip()
    if not (_BYTES.fullmatch(inner) if inner[:1] == "b" else inner[-1:] == _CLOSING.get(inner[:1])):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escape sequences
            value = _parse(inner)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list | dict) or inner[0] == "b" else text


def is_list_of_texts(text: str) -> bool:
    """Whether it denotes a list that contains a text; a title such as "[2]" does not."""
    value = parse_literal(text)
    return isinstance(value, list) and any(isinstance(element, str) for element in value)


def _parse(text: str) -> object:
    if _NUMPY_ARRAY.fullmatch(text):
        return [_decoded(ast.literal_eval(element)) for element in _NUMPY_ELEMENT.findall(text)]
    try:
        return json.loads(text)
    except ValueError:
        node = ast.parse(text, mode="eval").body
    if isinstance(node, ast.List | ast.Tuple | ast.Set):  # element by element: a Python set would lose their order
        return [_decoded(ast.literal_eval(element)) for element in node.elts]
    return _decoded(ast.literal_eval(node))


def _decoded(value: object) -> object:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value
