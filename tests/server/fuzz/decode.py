"""Every method's decoding and checking in process: a real worker and servicer over a small engine."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import grpc
from tritonclient.grpc import service_pb2 as triton

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.errors import InvalidRequest, MessageTooLarge, NotFound, SwiftrecError, Unsupported
from swiftrec.server.messages import decode
from swiftrec.server.models.registry import Registry
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker import methods
from swiftrec.server.worker.open_inference.infer import inference_methods
from swiftrec.server.worker.open_inference.repository import ModelRepository
from swiftrec.server.worker.open_inference.servicer import InferenceServicer
from swiftrec.server.worker.worker import Worker
from tests.server.fuzz.mutators import Case, Cases, kinds
from tests.server.support import small
from tests.server.support.workers import BATCH_RECOMMEND, STREAM_RECOMMEND, SmallEngine

SERVED = "small"
LIMIT_S = 1.0
_ALLOWED = (InvalidRequest, MessageTooLarge, NotFound, Unsupported)
_INTERNAL, _MAX_ENTRIES = 13, 256
_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


class Context:
    """The part of a gRPC context that servicers ask."""

    def time_remaining(self) -> float | None:
        return None


class Shelf(SmallEngine):
    """A registry with one engine, version 1."""

    default = SERVED

    def names(self) -> set[str]:
        return {SERVED}

    def load(self, name: str, version: int, wait_s: float, served: Callable[[], None]) -> None:
        raise NotFound(f"no bundle {name!r} can be loaded")

    def unload(self, name: str, wait_s: float) -> None:
        raise NotFound(f"no bundle {name} is loaded")

    def index(self) -> list[object]:
        return []

    def ready(self) -> list[Recommender]:
        return [self.engine]


@cache
def _shelf() -> Shelf:
    with tempfile.TemporaryDirectory() as folder:
        return Shelf(small.write_bundle(Path(folder) / "1"), cache_bytes=10_000_000)


@dataclass(slots=True)
class Outcome:
    """What a run found."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    seconds: float = 0.0


class Checker:
    """Decodes and answers messages as the server would, without one."""

    def __init__(self) -> None:
        shelf, self._errors = _shelf(), _Errors()
        registry, services = cast("Registry[Recommender]", shelf), shelf.services()
        repository = ModelRepository(registry, lambda: True, _MAX_ENTRIES)
        self._methods = methods.recommender_methods(services) | inference_methods(services, repository)
        self._worker = Worker(self._methods, Limits(), clock=shelf.clock)
        self._servicer, self._kinds = InferenceServicer(repository, lambda: True), kinds(SERVED)
        self._context = cast("grpc.ServicerContext", Context())

    def answer(self, case: Case) -> None:
        """Raises what the front would have to map."""
        for message in case.messages:
            if case.method in self._methods:
                self._run(case.method, message)
            else:
                method: Callable[..., Any] = getattr(self._servicer, case.method.rpartition("/")[2])
                method(decode(self._kinds[case.method], message), self._context).SerializeToString()

    def _run(self, method: str, message: bytes) -> None:
        replies: list[Reply] = []
        self._worker.admit(Ticket(method, message, 1e9, replies.append))
        while self._worker.has_work:
            self._worker.step()
        (reply,) = replies
        if isinstance(reply, SwiftrecError):
            raise reply.__cause__ or reply
        if error := self._errors.take():
            raise error
        if _is_internal(method, reply):
            raise AssertionError("an internal error in a message of a stream or a list")

    def check(self, case: Case) -> str:
        """How the case ended: "ok", the name of an allowed error, or a failure that begins with "!"."""
        started = time.thread_time()  # a busy machine makes no case slower
        try:
            self.answer(case)
            ending = "ok"
        except _ALLOWED as error:
            ending = type(error).__name__
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
            return f"!{type(error).__name__}: {error}"
        if (elapsed_s := time.thread_time() - started) > LIMIT_S:
            return f"!ran for {elapsed_s:.2f} s"
        return ending


class _Errors(logging.Handler):
    """Keeps the exception that was logged last: that of a message of a stream or of a list."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._last: BaseException | None = None
        logging.getLogger("swiftrec.server").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.exc_info:
            self._last = record.exc_info[1]

    def take(self) -> BaseException | None:
        """The exception since it was asked for last."""
        last, self._last = self._last, None
        return last


def _is_internal(method: str, reply: bytes) -> bool:
    """Whether a reply tells a client of an internal error; a log level may hide its cause."""
    if method == BATCH_RECOMMEND:
        results = pb.BatchRecommendResponse.FromString(reply).results
        return any(result.error.code == _INTERNAL for result in results)
    if method == STREAM_RECOMMEND:
        return pb.StreamRecommendResponse.FromString(reply).result.error.code == _INTERNAL
    if method == _STREAM_INFER:
        return bool(triton.ModelStreamInferResponse.FromString(reply).error_message == "internal error")
    return False


def run(number: int, seed: int, start: int = 0, progress: Callable[[Outcome], None] = lambda _outcome: None) -> Outcome:
    """Check `number` cases of `seed`."""
    outcome, checker, cases = Outcome(), Checker(), Cases(seed, SERVED)
    level, began = logging.getLogger().level, time.perf_counter()
    for n in range(start, start + number):
        case = cases.case(n)
        since = time.thread_time()
        ending = checker.check(case)
        outcome.slowest_s = max(outcome.slowest_s, time.thread_time() - since)
        outcome.cases += 1
        outcome.outcomes[ending if ending[0] != "!" else "failed"] += 1
        if ending[0] == "!":
            outcome.failures.append(f"seed {seed} {case}: {ending}")
        if outcome.cases % 50_000 == 0:
            progress(outcome)
    logging.getLogger().setLevel(level)  # LogSettings changed it
    outcome.seconds = time.perf_counter() - began
    return outcome
