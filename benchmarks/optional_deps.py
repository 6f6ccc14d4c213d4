"""Packages of the extra `bench`, which most tools do not need; errors as sentences."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def require_module(module: str) -> Any:  # noqa: ANN401 (a module)
    """Import a module of the extra.

    Raises:
        RuntimeError: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RuntimeError(f"the Python package {module} is not installed: pip install 'swiftrec[bench]'") from None


def error_sentence(error: BaseException) -> str:
    """What went wrong and what to do."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        file = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{file} ({os.strerror(error.errno)}): free some space and run again"
    if isinstance(error, OSError) and error.errno and error.filename:
        return f"{error.filename}: {os.strerror(error.errno)}: give a path that can be read and written here"
    return str(error) or type(error).__name__


def collect_until_error(results: Iterable[T]) -> tuple[list[T], str]:
    """Results up to an error or interrupt, and its sentence; an empty sentence if there was none.

    Raises:
        RuntimeError, OSError, KeyboardInterrupt: before the first result.
    """
    collected: list[T] = []
    try:
        for result in results:
            collected.append(result)  # noqa: PERF402 (results before an error are kept)
    except (RuntimeError, OSError, KeyboardInterrupt) as error:
        if not collected:
            raise
        return collected, "it was interrupted" if isinstance(error, KeyboardInterrupt) else error_sentence(error)
    return collected, ""
