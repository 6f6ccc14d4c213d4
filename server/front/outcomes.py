"""Counts and logs how calls ended, in one place for all of them."""

from __future__ import annotations

import time

from server.front.access_log import AccessLog
from server.front.call_record import CallRecord
from server.telemetry.histogram import Histogram
from server.telemetry.metrics import Metrics


class Outcomes:
    """Counts and logs calls that have ended.

    Args:
        metrics: where calls are counted.
        access_log: the log and the traces.
    """

    def __init__(self, metrics: Metrics, access_log: AccessLog) -> None:
        self._metrics, self._log = metrics, access_log
        self._successes: dict[str, Histogram] = {}

    def end(self, call: CallRecord) -> None:
        """A call has ended with its code."""
        now = time.monotonic()
        if call.code == "OK" and not self._log.is_open:
            histogram = self._successes.get(call.method) or self._success(call.method)
            histogram.add(now - call.started)
            return
        self._metrics.calls.labels(_short(call.method), call.code).add(now - call.started)
        self._log.log_call(call, now)

    def _success(self, method: str) -> Histogram:
        return self._successes.setdefault(method, self._metrics.calls.labels(_short(method), "OK"))


def _short(method: str) -> str:
    return method.rpartition("/")[2]
