"""The example command that the server prints after its start, for its bundle, address and authentication."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swiftrec.server.addresses import join_address, reachable_host
from swiftrec.server.certificates import certified_host
from swiftrec.server.config import ServerSettings
from swiftrec.server.domain import Item
from swiftrec.server.text import is_blank

SAMPLED_ITEMS = 100
_MAX_SHOWN_CHARS = 80  # of a title or value
_DEFAULT_ADDRESS = "127.0.0.1:8001"  # of `swiftrec ask`
_PROGRAM = "swiftrec"
_PREFIXES = ("id:", "text:")  # of an event in a history
_SEPARATOR, _ESCAPE = "|", "\\"  # between the events of a history


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A request: a query, and a history in the syntax of `swiftrec ask`."""

    query: str = ""
    history: str = ""


def example(items: Iterable[Item]) -> AskRequest:
    """Make a request from the first item that has a title and an attribute, or from the best alternative.

    A title is used as a text event; an id is added if it has only digits.
    """
    best = AskRequest()
    for item in items:
        title = item.title if _is_usable(item.title) and not item.title.isdecimal() else ""
        title = f"text:{title}" if title.startswith(_PREFIXES) else title
        identity = item.id if item.id.isdecimal() and item.id.isascii() else ""
        query = next((value for value in _values(item) if not value.isdecimal()), "")
        candidate = AskRequest(query, _SEPARATOR.join(filter(None, (title, identity))))
        if query and title:
            return candidate
        best = max(best, candidate, key=lambda request: (bool(request.query), bool(request.history)))
    return best


def hint(settings: ServerSettings, port: int, items: Iterable[Item], program: str = _PROGRAM) -> str:
    """The command, quoted for a shell.

    Args:
        settings: of the server.
        port: that it listens on.
        items: of the bundle, from which the request is made.
        program: `swiftrec` as it can be typed in the shell that started the server.
    """
    host = reachable_host(settings.host)
    if settings.tls_cert and settings.tls_key:
        host = certified_host(settings.tls_cert, settings.tls_key, host)
    address, request = join_address(host, port), example(items)
    values = {"address": address, "query": request.query, "history": request.history}
    values = {name: value for name, value in values.items() if value and value != _DEFAULT_ADDRESS}
    flags = [f"--{name}={shlex.quote(value)}" for name, value in values.items()]
    return " ".join([shlex.quote(program), "ask", *flags, *map(shlex.quote, _access(settings))])


def program_as_typed(path: str) -> str:
    """How a shell runs the program that was started as `path`: by its name if it is found on PATH."""
    if Path(path).name != _PROGRAM:  # a module, as in python -m swiftrec
        return _PROGRAM
    return _PROGRAM if shutil.which(_PROGRAM) == path else path


def _access(settings: ServerSettings) -> list[str]:
    """Flags of the client; the client's own files are placeholders in capitals."""
    flags = ["--tls-ca", str(settings.tls_cert.absolute())] if settings.tls_cert else []
    if settings.tls_client_ca:
        flags += ["--tls-cert", "CLIENT_CERTIFICATE", "--tls-key", "CLIENT_KEY"]
    return flags + (["--token-file", str(settings.token_file.absolute())] if settings.token_file else [])


def _values(item: Item) -> Iterator[str]:
    return (value for values in item.attributes.values() for value in values if _is_usable(value))


def _is_usable(word: str) -> bool:
    """Whether it fits on a line and can be sent as a text."""
    if len(word) > _MAX_SHOWN_CHARS or not word.isprintable() or is_blank(word):
        return False
    return _SEPARATOR not in word and not word.endswith(_ESCAPE)
