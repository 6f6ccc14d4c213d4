"""SIGTERM and Ctrl-C, in a thread of their own.

The kernel may give a process's signal to any of its threads. Python's handler then waits until the main thread runs
again, which never happens while that waits for a lock; the byte that goes into the wake-up pipe waits for nobody.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swiftrec.server.app import App

_log = logging.getLogger(__name__)
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
            try:
                told()
            except Exception:  # noqa: BLE001 (the next signal must be obeyed)
                _log.exception("a signal was not obeyed")


def stop_on_signals(app: App) -> threading.Event:
    """An event that SIGTERM or Ctrl-C sets; a second one cancels the calls that still run.

    While it starts, the process ends with code 0 as soon as what serves already, if anything, is stopped.
    """
    stop = threading.Event()

    def leave() -> None:
        if app.registry.ready():
            app.stop()
        _log.info("stopped while it started")
        logging.shutdown()
        os._exit(0)  # a bundle that is being loaded would hold the process

    def told() -> None:
        if stop.is_set():
            app.hurry()
        elif not app.has_started:
            threading.Thread(target=leave, name="leave").start()
        stop.set()

    on_signals(told)
    return stop
