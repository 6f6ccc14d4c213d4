"""`--flags-from VARIABLE`: reads further flags of a command from an environment variable.

The Makefile passes user input this way, so that no shell interprets it: the variable is split into words like in a
shell, with quotes and backslashes, but nothing in it is run or expanded.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from swiftrec.server.errors import ConfigError

_FLAG = "--flags-from"


def with_flags(arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Replace `--flags-from VARIABLE` by the words of the variable; by nothing if it is not set.

    Raises:
        ConfigError: a quote is not closed.
    """
    if _FLAG not in arguments:
        return list(arguments)
    at = list(arguments).index(_FLAG)
    name = "".join(arguments[at + 1 : at + 2])
    try:
        words = shlex.split(environment.get(name, ""))
    except ValueError as error:
        raise ConfigError(
            f"{name}: {error}, got {environment[name]!r}: close the quote, or put a backslash before it"
        ) from None
    return [*arguments[:at], *words, *arguments[at + 2 :]]
