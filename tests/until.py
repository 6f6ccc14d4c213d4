"""Waiting for what a server does in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LONG = 30.0  # seconds after which a test that waits has failed
_LOOK_S = 1e-3


def until(is_so: Callable[[], bool], seen: Callable[[], object] = lambda: "") -> None:
    """Wait until `is_so`; after `LONG` seconds the test fails with what `seen` returns.

    It waits between two checks, so that it does not keep the interpreter from the threads of the server.
    """
    ends, never = time.monotonic() + LONG, threading.Event()
    while not is_so():
        assert time.monotonic() < ends, f"not after {LONG:g} s: {seen()}"
        never.wait(_LOOK_S)
