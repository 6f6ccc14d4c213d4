"""The thread that drives a worker, and the queue through which a front reaches it in one process."""

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
_ADMIT_S = 0.02  # that calls are admitted before a step
_LOOKS = 4  # of the watchdog within that time
_PREDICTED_STEPS = 4  # times the predicted length of a step that is slow but ends


class WorkerThread:
    """A worker in this process: `server.front.link.Link`.

    A step that does not end, such as one whose model hangs, cannot be interrupted; a second thread says so.

    Args:
        worker: used by this thread alone.
        on_death: called with the reason if the thread ends by an error of ours, or a step does not end; the server is
            not healthy from then on.
        hang_timeout_s: a step that takes longer than this, and than four times its predicted time, does not end.
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
        """What waits, as it was after the last step."""
        return self._load

    def start(self) -> None:
        """Begin to answer calls."""
        self._thread.start()
        self._watchdog.start()

    def send(self, ticket: Ticket) -> None:
        """Have a call answered; never blocks."""
        self._inbox.put(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Drop a call: the client has gone, or its deadline has passed. Its `done` is not called."""
        ticket.is_cancelled = True
        self._inbox.put(ticket)

    def stop(self, timeout_s: float | None = None) -> None:
        """Answer what was sent, then end the thread; without waiting longer than `timeout_s`."""
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
        except BaseException:  # noqa: BLE001 (whatever it is: health must say so)
            _log.exception("the worker's thread died")
            self._on_death("the worker's thread has died")
            self._refuse_all()
        finally:
            self._has_ended.set()

    def _refuse_all(self) -> None:
        """Refuse what was admitted and what is sent from now on, instead of leaving it to its deadline."""
        error = ShuttingDown("the server has failed and has to be restarted")
        self._worker.refuse_all(error)
        while not self._is_stopping or not self._inbox.empty():
            ticket = self._inbox.get()
            if ticket is not None and not ticket.is_cancelled:
                ticket.done(error)

    def _watch(self) -> None:
        """Look at times whether a step has ended."""
        while not self._has_ended.wait(self._hang_timeout_s / _LOOKS):
            if self.is_hanging(time.monotonic()):
                _log.error("a step does not end")
                self._on_death("a model does not answer")
                return

    def is_hanging(self, now: float) -> bool:
        """Whether what the worker does should have ended by now."""
        limit_s = max(self._hang_timeout_s, _PREDICTED_STEPS * self._worker.step_s)
        since = self._busy_since
        return since is not None and now - since > limit_s

    def _admit(self, ticket: Ticket | None) -> None:
        """Admit `ticket` and what was sent; if there is something to do, for a time only."""
        ends = time.monotonic() + _ADMIT_S
        if ticket is not None:
            self._worker.admit(ticket)
        for _ in range(self._inbox.qsize()):  # this thread alone takes
            ticket = self._inbox.get()
            if ticket is not None:
                self._worker.admit(ticket)
            if self._worker.has_work and time.monotonic() > ends:
                return
