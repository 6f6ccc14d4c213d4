"""Sends cases to a server in a separate process and judges its answers."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as triton

from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.server.fuzz.mutators import Case, Cases
from tests.server.fuzz.seeds import INFERENCE, RECOMMENDER, STREAMS
from tests.server.support.process import Server

LIMIT_S = 1.0
_GIVE_UP_S = 10.0
_TRIES = 3
_AT_ONCE = 8
_FORBIDDEN = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE})
_FORBIDDEN_ENTRIES = frozenset({code.value[0] for code in _FORBIDDEN})
_KNOWN = pb.RecommendRequest(history=[pb.Event(item_id="50")], query="a good western", top_k=20)
_GAUGES = ("swiftrec_calls_in_flight", "swiftrec_queue_requests", "swiftrec_queue_tokens")


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    cases: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    tried_again: int = 0  # slow beside others on a busy machine, so tried alone
    seconds: float = 0.0


class Fuzz:
    """Sends cases, `_AT_ONCE` at a time, and looks at every answer."""

    def __init__(self, server: Server, cases: Cases, seed: int) -> None:
        self._server, self._cases, self._seed = server, cases, seed
        self._channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._slow: list[Case] = []
        self.outcome = Outcome()

    def run(self, number: int, start: int = 0, progress: Callable[[Outcome], None] = lambda _outcome: None) -> Outcome:
        """Send `number` cases; then the server must be as it was."""
        began, known = time.perf_counter(), self._known()
        for n in range(start, start + number):
            self._send(self._cases.case(n))
            if (n - start) % 5_000 == 4_999:
                progress(self.outcome)
        for _ in range(_AT_ONCE):
            self._room.acquire()
        for case in self._slow:
            self._alone(case)
        self._look_after(known)
        self._channel.close()
        self.outcome.seconds = time.perf_counter() - began
        return self.outcome

    def _send(self, case: Case) -> None:
        self._room.acquire()
        started = time.perf_counter()
        if case.method in STREAMS:
            threading.Thread(target=self._stream, args=(case, started)).start()
            return
        call = self._channel.unary_unary(case.method, None, None).future(
            case.messages[0], timeout=_GIVE_UP_S, metadata=case.metadata
        )

        def done(ended: Any) -> None:  # noqa: ANN401 (a call and a future)
            code = ended.code()
            replies = [ended.result()] if code is grpc.StatusCode.OK else []
            self._judge(case, code, ended.details(), replies, time.perf_counter() - started)
            self._room.release()

        call.add_done_callback(done)

    def _stream(self, case: Case, started: float) -> None:
        code, details, replies = self._stream_answer(case)
        self._judge(case, code, details, replies, time.perf_counter() - started)
        self._room.release()

    def _stream_answer(self, case: Case) -> tuple[grpc.StatusCode, str, list[bytes]]:
        replies: list[bytes] = []
        method = self._channel.stream_stream(case.method, None, None)
        call: Any = method(iter(case.messages), timeout=_GIVE_UP_S, metadata=case.metadata)
        with contextlib.suppress(grpc.RpcError):  # the code below says it
            replies.extend(call)
        return call.code(), call.details() or "", replies

    def _judge(self, case: Case, code: grpc.StatusCode, details: str, replies: list[bytes], elapsed_s: float) -> None:
        with self._lock:
            self.outcome.cases += 1
            self.outcome.codes[code.name] += 1
            self.outcome.slowest_s = max(self.outcome.slowest_s, elapsed_s)
            if code in _FORBIDDEN:
                self._fail(case, f"{code.name}: {details[:200]}")
            elif actual := _inside(case.method, replies):
                self._fail(case, actual)
            elif elapsed_s > LIMIT_S:
                self._slow.append(case)

    def _fail(self, case: Case, why: str) -> None:
        self.outcome.failures.append(f"seed {self._seed} {case}: {why}")

    def _alone(self, case: Case) -> None:
        """A slow case is slow if it is so alone, too, each time."""
        self.outcome.tried_again += 1
        for _ in range(_TRIES):
            started = time.perf_counter()
            if case.method in STREAMS:
                self._stream_answer(case)
            else:
                call = self._channel.unary_unary(case.method, None, None)
                call.future(case.messages[0], timeout=_GIVE_UP_S, metadata=case.metadata).exception()
            if time.perf_counter() - started <= LIMIT_S:
                return
        self._fail(case, f"takes over {LIMIT_S} s")

    def _known(self) -> list[str]:
        reply = RecommenderServiceStub(self._channel).Recommend(_KNOWN, timeout=_GIVE_UP_S, wait_for_ready=True)
        return [item.item_id for item in reply.items]

    def _look_after(self, known: list[str]) -> None:
        failures = self.outcome.failures
        try:
            health = health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            if health.status != health_pb2.HealthCheckResponse.SERVING:
                failures.append("health is not SERVING afterwards")
            if self._known() != known:
                failures.append("a known request has another answer afterwards")
        except grpc.RpcError as error:
            failures.append(f"the server does not answer afterwards: {error}")
            return
        failures.extend(leftovers(self._server.metrics_port))


def leftovers(metrics_port: int, timeout_s: float = 5.0) -> list[str]:
    """What the metrics say that should not be: work that stays, and failures of ours that were counted."""
    ends = time.monotonic() + timeout_s
    while held := [line for line in _metrics(metrics_port) if line.startswith(_GAUGES) and not line.endswith(" 0.0")]:
        if time.monotonic() > ends:
            break
    bad = re.compile(r'swiftrec_call_seconds_count\{code="(INTERNAL|UNKNOWN)"')
    failed = [line for line in _metrics(metrics_port) if bad.match(line) and not line.endswith(" 0.0")]
    return [f"left behind: {line}" for line in held] + [f"counted: {line}" for line in failed]


def _metrics(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read().decode()).splitlines()


def _inside(method: str, replies: list[bytes]) -> str:
    """A failure of ours that travels inside an answer."""
    try:
        for data in replies:
            if method == RECOMMENDER + "BatchRecommend":
                results = list(pb.BatchRecommendResponse.FromString(data).results)
            elif method == RECOMMENDER + "StreamRecommend":
                results = [pb.StreamRecommendResponse.FromString(data).result]
            else:
                results = []
            for result in results:
                if result.error.code in _FORBIDDEN_ENTRIES:
                    return f"an entry failed: {result.error.code} {result.error.message[:200]}"
            if method == INFERENCE + "ModelStreamInfer":
                reply = triton.ModelStreamInferResponse.FromString(data)
                if "internal error" in reply.error_message or "the model failed" in reply.error_message:
                    return str(reply.error_message)[:200]
    except DecodeError:
        return "the answer is no message"
    return ""
