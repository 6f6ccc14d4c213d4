"""Reads settings from flags and the environment: the same way for every command."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, NoDecode, SettingsError

from swiftrec.server.errors import ConfigError
from swiftrec.server.help_formatter import HelpFormatter
from swiftrec.server.output import write_text
from swiftrec.server.renames import flag_of, old_variables, renames_of, with_new_flags
from swiftrec.server.variables import unread_variables
from swiftrec.server.version import add_version_flag

S = TypeVar("S", bound=BaseSettings)


def read_settings(kind: type[S], argv: Sequence[str] | None = None, others: Sequence[type[BaseSettings]] = ()) -> S:
    """Read settings from flags and the environment; warns on stderr of unknown variables with our prefix.

    An empty variable counts as not set. Flags and variables of fields that `kind` lists in `RENAMED` still work under
    their old name, with a warning (`server.renames`).

    `--help` and `--version` print and end the process.

    Args:
        kind: the settings of the program.
        argv: its flags; default: those of the process.
        others: settings of other commands whose variables have the same prefix.

    Raises:
        ConfigError: an argument is unknown, or one sentence for each setting that is wrong.
    """
    source: CliSettingsSource[Any] = CliSettingsSource(kind, formatter_class=HelpFormatter)
    source.root_parser.description = inspect.cleandoc(kind.__doc__ or "")
    add_version_flag(source.root_parser)
    arguments, warnings = with_new_flags(sys.argv[1:] if argv is None else argv, renames_of(kind))
    namespace, unknown = source.root_parser.parse_known_args(arguments)
    if unknown:
        raise ConfigError(f"unknown argument {unknown[0]}: {_program(kind)} --help lists the flags")
    for warning in warnings:
        write_text(sys.stderr, f"{_program(kind)}: warning: {warning}\n")
    _warn_of_unread_variables([kind, *others])
    given = _renamed_variables(kind) | _take_lists(kind, namespace)
    try:
        return kind(_cli_settings_source=source(parsed_args=namespace), _env_ignore_empty=True, **given)
    except ValidationError as error:
        raise ConfigError("; ".join(_sentence(e["loc"], e["msg"], e.get("input")) for e in error.errors())) from None
    except SettingsError as error:  # a list that cannot be parsed
        raise ConfigError(f"a flag or variable cannot be read: {error}") from None


def require_utf8(value: str, remedy: str) -> str:
    """Validate text from a flag or a variable.

    Raises:
        ValueError: its bytes are not UTF-8, so it can be neither sent nor written.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"is not UTF-8: {remedy}") from None
    return value


def _take_lists(kind: type[BaseSettings], namespace: argparse.Namespace) -> dict[str, Any]:
    """Remove the list flags from the namespace: pydantic would join their values with commas."""
    names = [name for name, field in kind.model_fields.items() if NoDecode in field.metadata and name in namespace]
    lists = {name: getattr(namespace, name) for name in names}
    for name in names:
        delattr(namespace, name)
    return lists


def _program(kind: type[BaseSettings]) -> str:
    return str(kind.model_config.get("cli_prog_name") or "")


def _renamed_variables(kind: type[BaseSettings]) -> dict[str, str]:
    """New field -> value of the variables that are set under an old name only; warns of all set under an old name."""
    prefix, renames = kind.model_config.get("env_prefix", ""), renames_of(kind)
    is_set = {name.upper() for name, value in os.environ.items() if value}
    values = {}
    for name, old, value in old_variables(os.environ, prefix, renames):
        new = f"{prefix}{renames[old]}".upper()
        write_text(
            sys.stderr,
            f"{_program(kind)}: warning: {name} is now {new}: the old name will not work in the next release\n",
        )
        if new not in is_set:
            values[renames[old]] = value
    return values


def _warn_of_unread_variables(kinds: Sequence[type[BaseSettings]]) -> None:
    prefix, program = kinds[0].model_config.get("env_prefix", ""), _program(kinds[0])
    fields = [name for kind in kinds for name in kind.model_fields]
    old = {name for kind in kinds for name, _, _ in old_variables(os.environ, prefix, renames_of(kind))}
    environment = {name: value for name, value in os.environ.items() if name not in old}
    for name, similar in unread_variables(environment, prefix, fields):
        hint = f"did you mean {similar}?" if similar else f"{program} --help lists the settings"
        write_text(sys.stderr, f"{program}: warning: {name} is not a setting and is ignored: {hint}\n")


def _sentence(location: tuple[int | str, ...], message: str, value: object) -> str:
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    flag = flag_of(str(location[0]))
    return f"{flag} is required" if message == "Field required" else f"{flag}: {message}, got {value!r}"
