"""Trials of bundles before they are loaded. Several can run at once, and they do not block other loads or unloads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from swiftrec.server.errors import Busy

MAX_TRIALS = 4  # at once; each loads a bundle into memory


class Trials:
    """Runs trials.

    Args:
        probe: tries the bundle in a folder; raises BundleError.
    """

    def __init__(self, probe: Callable[[Path], None]) -> None:
        self._probe = probe
        self._running: set[Path] = set()
        self._ended = threading.Condition()

    def run(self, folder: Path, wait_s: float) -> None:
        """Try a bundle, after waiting for a trial of the same folder and for a free slot.

        Raises:
            BundleError: it cannot be loaded.
            Busy: the wait was longer than `wait_s`.
        """
        with self._ended:
            if not self._ended.wait_for(lambda: self._may_start(folder), max(0.0, wait_s)):
                raise Busy(self._reason(folder))
            self._running.add(folder)
        try:
            self._probe(folder)
        finally:
            with self._ended:
                self._running.remove(folder)
                self._ended.notify_all()

    def _may_start(self, folder: Path) -> bool:
        return folder not in self._running and len(self._running) < MAX_TRIALS

    def _reason(self, folder: Path) -> str:
        if folder in self._running:
            return f"{folder} is being tried already: try again when that has ended"
        return f"{MAX_TRIALS} bundles are being tried already: try again when one of them has ended"
