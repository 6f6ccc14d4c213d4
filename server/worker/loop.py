"""The thread that runs a worker, and the queue through which a front sends it calls."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from swiftrec.server.batching.admission import Load
from swiftrec.server.errors import ShuttingDown
from swiftrec.server.ticket import Ticket
from swiftrec.server.worker.worker import Worker

_log = logging.getLogger(__name__)
_NO_LOAD = Load(0, 0, 0.0)
HANG_TIMEOUT_S = 10.0
_MAX_ADMIT_S = 0.02  # spent on admitting calls before a step
_CHECKS_PER_TIMEOUT = 4  # of the watchdog
_HANG_FACTOR = 4  # times the predicted time of a step, below which it is slow and not hanging


class WorkerThread:
    """A worker in this process: `server.front.link.Link`.

    A step that hangs, for example in a model, cannot be interrupted; a second thread detects and reports it.

    Args:
        worker: used by this thread only.
        on_death: called with the reason if the thread ends unexpectedly or a step hangs; the server is unhealthy then.
        hang_timeout_s: a step that takes longer than this, and than four times its predicted time, hangs.
    """

    def __init__(
        self,
        worker: Worker,
        on_death: Callable[[str], None] = lambda _reason: None,
        hang_timeout_s: float = HANG_TIMEOUT_S,
    ) -> None:
        self._worker, self._on_death, self._hang_timeout_s = worker, on_death, hang_timeout_s
        self._busy_since: float | None = None
        self._has_ended = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._inbox: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._load = _NO_LOAD
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    @property
    def load(self) -> Load:
        """The load of the queue after the last step."""
        return self._load

    def start(self) -> None:
        """Start the threads."""
        self._thread.start()
        self._watchdog.start()

    def send(self, ticket: Ticket) -> None:
        """Send a call to the worker; never blocks."""
        self._inbox.put(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a call: its client has disconnected, or its deadline has passed. Its `done` is not called."""
        ticket.is_cancelled = True
        self._inbox.put(ticket)

    def stop(self, timeout_s: float | None = None) -> None:
        """Finish the calls that were sent, then end the thread; wait at most `timeout_s`."""
        self._is_stopping = True
        self._inbox.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._is_stopping or self._worker.has_work or not self._inbox.empty():
                ticket = self._inbox.get() if not self._worker.has_work else None
                self._busy_since = time.monotonic()
                self._admit(ticket)
                if self._worker.has_work:
                    self._worker.step()
                self._busy_since = None
                self._load = self._worker.load
        except BaseException:  # noqa: BLE001 (any error must turn health NOT_SERVING)
            _log.exception("the worker thread has died")
            self._on_death("the worker thread has died")
            self._fail_all()
        finally:
            self._has_ended.set()

    def _fail_all(self) -> None:
        """Fail admitted calls and all later ones immediately, rather than at their deadlines."""
        error = ShuttingDown("the server has failed and must be restarted")
        self._worker.fail_all(error)
        while not self._is_stopping or not self._inbox.empty():
            ticket = self._inbox.get()
            if ticket is not None and not ticket.is_cancelled:
                ticket.done(error)

    def _watch(self) -> None:
        """Check regularly whether a step hangs."""
        while not self._has_ended.wait(self._hang_timeout_s / _CHECKS_PER_TIMEOUT):
            if self.is_hanging(time.monotonic()):
                _log.error("a step hangs")
                self._on_death("a model does not respond")
                return

    def is_hanging(self, now: float) -> bool:
        """Whether the current step takes too long."""
        limit_s = max(self._hang_timeout_s, _HANG_FACTOR * self._worker.step_s)
        since = self._busy_since
        return since is not None and now - since > limit_s

    def _admit(self, ticket: Ticket | None) -> None:
        """Admit `ticket` and the calls in the inbox; for a limited time if there is work to do."""
        ends = time.monotonic() + _MAX_ADMIT_S
        if ticket is not None:
            self._worker.admit(ticket)
        for _ in range(self._inbox.qsize()):  # only this thread removes items
            ticket = self._inbox.get()
            if ticket is not None:
                self._worker.admit(ticket)
            if self._worker.has_work and time.monotonic() > ends:
                return
