"""Handles SIGTERM and Ctrl-C in a separate thread.

The kernel may deliver a signal to any thread of the process. Python's handler runs in the main thread, and never does
so while that thread waits for a lock. The wake-up pipe is written immediately.
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


def on_signals(on_signal: Callable[[], None]) -> None:
    """Call `on_signal` for each SIGTERM and Ctrl-C from now on; use once per process, in its main thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in _NUMBERS:
        signal.signal(number, lambda _number, _frame: None)  # without a handler, the signal ends the process
    threading.Thread(target=_follow, args=(read, on_signal), name="signals", daemon=True).start()


def _follow(pipe: int, on_signal: Callable[[], None]) -> None:
    while byte := os.read(pipe, 1):
        if byte[0] in _NUMBERS:
            try:
                on_signal()
            except Exception:  # noqa: BLE001 (later signals must be handled)
                _log.exception("a signal could not be handled")


def stop_on_signals(app: App) -> threading.Event:
    """Return an event that is set by SIGTERM or Ctrl-C; a second signal cancels the calls in flight.

    During the start, a signal stops the loaded bundles, if any, and ends the process with code 0.
    """
    stop = threading.Event()

    def leave() -> None:
        if app.registry.ready():
            app.stop()
        _log.info("stopped during the start")
        logging.shutdown()
        os._exit(0)  # a thread that is loading a bundle would keep the process alive

    def on_signal() -> None:
        if stop.is_set():
            app.cancel_in_flight()
        elif not app.has_started:
            threading.Thread(target=leave, name="leave").start()
        stop.set()

    on_signals(on_signal)
    return stop
