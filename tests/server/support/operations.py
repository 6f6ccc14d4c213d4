"""Counts what code does, so that tests of its work need no clock."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np


def count_array_operations(function: Callable[[], object]) -> int:
    """How many functions of numpy and methods of arrays `function` calls; operators and indexing do not count."""
    count = 0

    def on_event(_frame: FrameType, event: str, called: object) -> None:
        nonlocal count
        if event == "c_call":
            is_method = isinstance(getattr(called, "__self__", None), np.ndarray)
            count += is_method or str(getattr(called, "__module__", "")).startswith("numpy")

    before = sys.getprofile()
    sys.setprofile(on_event)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
