"""Packages of the extra `bench`, which most commands do without; errors as sentences."""

from __future__ import annotations

import errno
import importlib
import os
from typing import Any


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
    """What went wrong, for people."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{where} ({os.strerror(error.errno)}): the result stands on stdout"
    return str(error)
