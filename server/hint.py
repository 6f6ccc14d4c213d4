"""The command printed after the start: a request that fits the bundle, the address and the access of the server."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from swiftrec.server.addresses import reachable_host
from swiftrec.server.catalogue.items import Item
from swiftrec.server.certificates import certified_host
from swiftrec.server.config import ServerSettings
from swiftrec.server.text import is_blank

SAMPLED_ITEMS = 100
_WORD_CHARS = 80  # of a title or value that is shown
_DEFAULT_HOST, _DEFAULT_PORT = "127.0.0.1", 8001  # of `make ask`
_MARKS = ("id:", "text:")  # with which an event of a history may begin, to say what it is
_SEPARATOR, _ESCAPE = "|", "\\"  # between the events of a history, and what before one keeps it inside an event


@dataclass(frozen=True, slots=True)
class Example:
    """A request: a query, and a history as `make ask` takes it."""

    query: str = ""
    history: str = ""


def example(items: Iterable[Item]) -> Example:
    """A request from the first item that has a title and an attribute, or as much of it as there is.

    A title is a text event; an id is added where it has digits only.
    """
    best = Example()
    for item in items:
        title = item.title if _is_usable(item.title) and not item.title.isdecimal() else ""
        title = f"text:{title}" if title.startswith(_MARKS) else title
        identity = item.id if item.id.isdecimal() and item.id.isascii() else ""
        query = next((value for value in _values(item) if not value.isdecimal()), "")
        found = Example(query, _SEPARATOR.join(filter(None, (title, identity))))
        if query and title:
            return found
        best = max(best, found, key=lambda one: (bool(one.query), bool(one.history)))
    return best


def hint(settings: ServerSettings, port: int, items: Iterable[Item]) -> str:
    """The command, quoted for a shell; make passes on what it gets as it is."""
    host, flags = reachable_host(settings.host), _access(settings)
    if settings.tls_cert and settings.tls_key:
        host = certified_host(settings.tls_cert, settings.tls_key, host)
    first = example(items)
    values = {"HOST": host, "PORT": str(port), "Q": first.query, "HISTORY": first.history}
    defaults = {"HOST": _DEFAULT_HOST, "PORT": str(_DEFAULT_PORT)}
    values["ASK_FLAGS"] = shlex.join(flags)
    given = {name: value for name, value in values.items() if value != defaults.get(name, "")}
    return " ".join(["make ask", *(f"{name}={shlex.quote(value)}" for name, value in given.items())])


def _access(settings: ServerSettings) -> list[str]:
    """Flags of the client; what belongs to the client alone is named in capitals."""
    flags = ["--tls-ca", str(settings.tls_cert.absolute())] if settings.tls_cert else []
    if settings.tls_client_ca:
        flags += ["--tls-cert", "CLIENT_CERTIFICATE", "--tls-key", "CLIENT_KEY"]
    return flags + (["--token-file", str(settings.token_file.absolute())] if settings.token_file else [])


def _values(item: Item) -> Iterator[str]:
    return (value for values in item.attributes.values() for value in values if _is_usable(value))


def _is_usable(word: str) -> bool:
    """Whether it can be shown on a line and sent as a text."""
    if len(word) > _WORD_CHARS or not word.isprintable() or is_blank(word):
        return False
    return _SEPARATOR not in word and not word.endswith(_ESCAPE)
