"""Counts and logs how calls ended, in one place for all of them."""

from __future__ import annotations

import time

from server.front.access_log import AccessLog
from server.front.call_record import CallRecord
from server.telemetry.metrics import Metrics
from server.telemetry.tally import Tally


class Outcomes:
    """Counts and logs calls that have ended.

    Args:
        metrics: where calls are counted.
        access_log: the log and the traces.
    """

    def __init__(self, metrics: Metrics, access_log: AccessLog) -> None:
        self._metrics, self._log = metrics, access_log
        self._successes: dict[str, Tally] = {}

    def end(self, call: CallRecord) -> None:
        """A call has ended with its code."""
        now = time.monotonic()
        if call.code == "OK" and not self._log.is_open:
            tally = self._successes.get(call.method) or self._success(call.method)
            tally.add(now - call.started)
            return
        self._metrics.calls.labels(_short(call.method), call.code).add(now - call.started)
        self._log.log_call(call, now)

    def _success(self, method: str) -> Tally:
        return self._successes.setdefault(method, self._metrics.calls.labels(_short(method), "OK"))


def _short(method: str) -> str:
    return method.rpartition("/")[2]
