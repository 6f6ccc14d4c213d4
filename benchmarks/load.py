"""Load on a server: closed loop (so many in flight) and open loop (Poisson, latency from the intended send time)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

ENCODE = "/swiftrec.v1.EncoderService/Encode"
RECOMMEND = "/swiftrec.v1.RecommenderService/Recommend"


@dataclass(slots=True)
class Rows:
    """One row a request: seconds since the start at which it was meant to go, went, was answered; its status code."""

    intended: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    code: list[int] = field(default_factory=list)

    def latencies(self, code: int = 0) -> NDArray[np.float64]:
        """Seconds from intended to answered of the requests that ended with `code`."""
        codes = np.array(self.code)
        seconds: NDArray[np.float64] = np.array(self.done) - np.array(self.intended)
        chosen: NDArray[np.float64] = seconds[codes == code]
        return chosen


def percentiles(seconds: NDArray[np.float64]) -> dict[str, float]:
    """p50, p95, p99 and p99.9 in milliseconds."""
    names = (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99), ("p99.9_ms", 99.9))
    return {name: float(1e3 * np.percentile(seconds, q)) if len(seconds) else float("nan") for name, q in names}


class Load:
    """Sends raw requests over one channel and keeps a row for each.

    Args:
        address: host:port.
        method: full method name.
        timeout_s: of each request.
        channels: connections that requests are spread over.
    """

    def __init__(self, address: str, method: str = ENCODE, timeout_s: float = 30.0, channels: int = 1) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(address, options) for _ in range(channels)]
        self._calls = [channel.unary_unary(method, None, None) for channel in self._channels]
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._open = 0

    def closed(self, requests: Sequence[bytes], in_flight: int) -> Rows:
        """Each request once, `in_flight` at a time: an answer brings the next request."""
        rows, pending = Rows(), iter(requests)
        started = time.perf_counter()
        self._over.clear()
        self._open = min(in_flight, len(requests))

        def advance() -> None:
            with self._lock:
                data = next(pending, None)
                if data is None:
                    self._open -= 1
                    if not self._open:
                        self._over.set()
                    return
            now = time.perf_counter() - started
            self._send(data, rows, now, started, advance)

        for _ in range(self._open):
            advance()
        self._over.wait()
        return rows

    def open(self, requests: Sequence[bytes], rate: float, seed: int = 7) -> Rows:
        """Each request once, at Poisson times of `rate` a second, however the server does."""
        rows = Rows()
        times = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, len(requests)))
        self._over.clear()
        self._open = len(requests)

        def ended() -> None:
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._over.set()

        started = time.perf_counter()
        for data, at in zip(requests, times, strict=True):
            while (early := at - (time.perf_counter() - started)) > 0:
                time.sleep(early)
            self._send(data, rows, float(at), started, ended)
        self._over.wait()
        return rows

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def _send(self, data: bytes, rows: Rows, intended: float, started: float, ended: Callable[[], None]) -> None:
        sent = time.perf_counter() - started
        call = self._calls[len(rows.sent) % len(self._calls)].future(data, timeout=self._timeout_s)

        def done(answered: Any) -> None:  # noqa: ANN401 (a call and a future)
            now, code = time.perf_counter() - started, answered.code()
            with self._lock:
                rows.intended.append(intended)
                rows.sent.append(sent)
                rows.done.append(now)
                rows.code.append(code.value[0])
            ended()

        call.add_done_callback(done)


def repeated(requests: Sequence[bytes], number: int) -> list[bytes]:
    """`number` requests, from the start again where they end."""
    return [requests[n % len(requests)] for n in range(number)]
