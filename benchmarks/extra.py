"""Packages of the extra `bench`, which most commands do without; errors as sentences."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def need(module: str) -> Any:  # noqa: ANN401 (a module)
    """Import a module of the extra.

    Raises:
        RuntimeError: it is not installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RuntimeError(
            f"{module} is missing: python -m pip install -c constraints.txt -e '.[cpu,bench]' (make bench does it)"
        ) from None


def sentence(error: BaseException) -> str:
    """What went wrong, for people, and what to do."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where} ({os.strerror(error.errno)}): free some space and run again"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"{error.filename}: {os.strerror(error.errno)}: give a path that can be read and written here"
    return str(error) or type(error).__name__


def gathered(found: Iterable[T]) -> tuple[list[T], str]:
    """What comes until it ends early, and why it did; empty if it did not.

    Raises:
        RuntimeError, OSError, KeyboardInterrupt: it ended before the first.
    """
    kept: list[T] = []
    try:
        for one in found:
            kept.append(one)  # noqa: PERF402 (what came before an error must stay)
    except (RuntimeError, OSError, KeyboardInterrupt) as error:
        if not kept:
            raise
        return kept, "it was interrupted" if isinstance(error, KeyboardInterrupt) else sentence(error)
    return kept, ""
