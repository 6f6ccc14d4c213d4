"""Packages of the extra `bench`, which most commands do without."""

from __future__ import annotations

import importlib
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
