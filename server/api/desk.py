"""Unary calls that hold no thread while they wait.

grpc.server gives every call a thread of its pool that waits for the request and then for the answer: three switches of
threads a call. A `Desk` stands where gRPC asks a method for a pool of its own. It reads the request in gRPC's polling
thread, runs the method's coroutine there up to the call that it awaits, and runs the rest in a finishing thread once
the batchers are through. Measured in docs/decisions/005. What is not public of gRPC is in `visit.py`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

from server.api.deadlines import SILENCE_S, Deadlines
from server.api.visit import ARGUMENTS, Visit
from server.pipeline.call import Call
from server.telemetry.traces import Notes

_INLINE_BYTES = 2_048  # a larger request is taken by a thread, since nobody else is served while the poller works


class Desk(ThreadPoolExecutor):
    """Where unary calls are taken and handed out. It is a thread pool in name only, because gRPC asks for one.

    Args:
        threads: take the large requests, and those of methods that may block.
        finishers: threads that make the last step of each call: search, reply.
        deadlines: end calls that are late.
        notes: what is noted of a call while it has no thread; None: nothing is.
        on_death: called if a finishing thread dies.
        silence_s: a call whose request has not come so many seconds after its beginning is ended: it holds a place.
    """

    def __init__(
        self,
        threads: Executor,
        finishers: int,
        deadlines: Deadlines,
        notes: Notes | None = None,
        on_death: Callable[[], None] = lambda: None,
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__(1)
        self._large, self._deadlines, self._notes, self._on_death = threads, deadlines, notes, on_death
        self._silence_s = silence_s
        self._through: queue.SimpleQueue[Visit | None] = queue.SimpleQueue()
        self._finishers = [
            threading.Thread(target=self._finish, name=f"finish-{n}", daemon=True) for n in range(finishers)
        ]

    def start(self) -> None:
        """Begin to finish calls."""
        for thread in self._finishers:
            thread.start()

    def stop(self) -> None:
        """End the finishing threads, after what is through by now."""
        for thread in self._finishers:
            if thread.ident is not None:
                self._through.put(None)
        for thread in self._finishers:
            if thread.ident is not None:
                thread.join()

    def submit(self, *work: Any) -> Any:  # type: ignore[override] # noqa: ANN401 (gRPC alone calls it)
        """Ask for the request's message; `Visit.received` goes on when it is there.

        Args:
            work: what a thread would run, and the arguments of `_unary_response_in_pool`; gRPC's polling thread calls
                it under the call's lock.
        """
        event, state, behaviour, _read, _deserialise, serialise = work[-ARGUMENTS:]
        started = time.monotonic()
        visit = Visit(self, event, state, behaviour, serialise, started, started + self._silence_s)
        self._deadlines.watch(visit)
        visit.ask()
        return visit

    def forget(self, visit: Visit) -> None:
        """Its request is there, or never comes."""
        self._deadlines.forget(visit)

    def take(self, visit: Visit, size: int) -> None:
        """The request is there: begin to answer it."""
        if size <= _INLINE_BYTES and visit.behaviour.is_quick:
            self.go_on(visit, is_poller=True)
        else:
            self._large.submit(self.go_on, visit)

    def go_on(self, visit: Visit, *, is_poller: bool = False) -> None:
        """Run the visit's coroutine to its end, or up to a call that has to be waited for.

        What comes after the call, a search and the answer for each entry of a list, is nothing for the polling thread.
        """
        if self._notes:
            self._notes.put(visit.works)
        try:
            while True:
                call = visit.coroutine.send(None)
                if self._notes:
                    visit.works = self._notes.take()
                self._deadlines.watch(call)
                if call.then(partial(self._resume, visit, call)):
                    return
                self._deadlines.forget(call)
                if is_poller:
                    self._through.put(visit)
                    return
        except StopIteration as end:
            visit.answer(end.value)
        except BaseException:  # noqa: BLE001 (the edge has told of it and set the status; this thread serves others)
            visit.refuse()

    def _resume(self, visit: Visit, call: Call) -> None:
        self._deadlines.forget(call)
        self._through.put(visit)

    def _finish(self) -> None:
        visit: Visit | None = None
        try:
            while (visit := self._through.get()) is not None:
                self.go_on(visit)
        finally:
            if visit is not None:
                self._on_death()
