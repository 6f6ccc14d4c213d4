"""Flags and variables that were renamed: the old name works for one release, with a warning that names the new one.

A settings class lists its own in `RENAMED`, old field -> new field: {"old_name": "new_name"} makes `--old-name` mean
`--new-name`, and the variable of `old_name` mean that of `new_name`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic_settings import BaseSettings

_OFF = "no-"  # before a switch that is turned off


def renames_of(kind: type[BaseSettings]) -> Mapping[str, str]:
    """Old field -> new field of a settings class; empty if it has renamed none."""
    return getattr(kind, "RENAMED", {})


def flag_of(field: str) -> str:
    """The flag that sets a field."""
    return f"--{field.replace('_', '-')}"


def with_new_flags(arguments: Sequence[str], renames: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The arguments with the new names of renamed flags, and a warning for each flag that was renamed.

    Replaces `--old value`, `--old=value` and the negated switch `--no-old`; arguments after "--" stay as they are.
    """
    flags = {flag_of(prefix + old): flag_of(prefix + new) for old, new in renames.items() for prefix in ("", _OFF)}
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    replaced, warnings = list(arguments), []
    for n, argument in enumerate(arguments[:end]):
        flag, equals, value = argument.partition("=")
        if flag in flags:
            replaced[n] = f"{flags[flag]}{equals}{value}"
            warnings.append(f"{flag} is now {flags[flag]}: the old name will not work in the next release")
    return replaced, warnings


def old_variables(
    environment: Mapping[str, str], prefix: str, renames: Mapping[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Variables that are set under an old name, as (variable, old field, value); an empty one counts as not set."""
    fields = {f"{prefix}{old}".upper(): old for old in renames}
    for name, value in sorted(environment.items()):
        if value and name.upper() in fields:
            yield name, fields[name.upper()], value
