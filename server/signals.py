"""SIGTERM and Ctrl-C, in a thread of their own.

The kernel may give a process's signal to any of its threads. Python's handler then waits until the main thread runs
again, which never happens while that waits for a lock; the byte that goes into the wake-up pipe waits for nobody.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def on_signals(told: Callable[[], None]) -> None:
    """Call `told` on each of them, from now on. Once a process, from its main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _NUMBERS:
        signal.signal(number, lambda _number, _frame: None)  # without one, the signal ends the process
    threading.Thread(target=_follow, args=(read, told), name="signals", daemon=True).start()


def _follow(pipe: int, told: Callable[[], None]) -> None:
    while byte := os.read(pipe, 1):
        if byte[0] in _NUMBERS:
            told()
