"""Every method's decoding and checking in process: the real servicers over a pipeline that answers nothing."""

from __future__ import annotations

import inspect
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
from numpy.typing import NDArray

from server.api.calls import Calls
from server.api.convert import InputLimits
from server.api.inference.infer import Inference
from server.api.inference.repository import ModelRepository
from server.api.inference.servicer import InferenceServicer
from server.api.services import EncoderServicer, RecommenderServicer
from server.api.sizes import MessageLimits
from server.api.wire import decode
from server.catalogue.catalogue import Catalogue, Item
from server.errors import InvalidRequest, MessageTooLarge, NotFound, SwiftrecError, Unsupported
from server.models.registry import Registry
from server.pipeline.call import Call, finish
from server.pipeline.domain import Recommendation, Request, Strategy, Timings
from server.pipeline.engine import Engine, EngineOptions
from server.telemetry.metrics import Metrics
from server.telemetry.watch import BundleWatch
from tests.fuzz.mutators import Case, Cases, kinds
from tests.fuzz.seeds import ENCODER, RECOMMENDER

SERVED = "movielens-quick"
LIMIT_S = 1.0
_ALLOWED = (InvalidRequest, MessageTooLarge, NotFound, Unsupported)


class Context:
    """The part of a gRPC context that servicers ask."""

    def time_remaining(self) -> float | None:
        return None

    def add_callback(self, callback: object) -> bool:
        return True

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


class Pipeline:
    """Waits as the real one does, for answers that are there at once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    async def encode(self, texts: Sequence[str], call: Call, priority: int) -> NDArray[np.float32]:
        await self._wait(call)
        return np.zeros((len(texts), 4), dtype=np.float32)

    async def recommend_many(
        self, requests: Sequence[Request], call: Call, *, is_one_request: bool = False
    ) -> list[Recommendation | SwiftrecError]:
        await self._wait(call)
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Recommendation | SwiftrecError:
        try:
            mask = self._catalogue.mask(request.conditions, ())
        except SwiftrecError as error:
            return error
        items = self._catalogue.popular(mask, request.top_k)
        return Recommendation(items, [], Strategy.POPULARITY, 0, Timings())

    async def _wait(self, call: Call) -> None:
        call.expect(1)
        call.arrived()
        await call


class Shelf:
    """A registry with one engine, version 1."""

    default = SERVED

    def __init__(self) -> None:
        items = [Item(str(n), f"item {n}", "text", {"genre": ["Comedy"], "decade": ["1990s"]}, n) for n in range(60)]
        facts = SimpleNamespace(name=SERVED, version=1, dimensions=4)
        catalogue = Catalogue(items, np.zeros((len(items), 4), dtype=np.float32))
        self._engine = SimpleNamespace(
            bundle=SimpleNamespace(manifest=facts),
            recommender=Pipeline(catalogue),
            options=EngineOptions(),
            watch=BundleWatch(Metrics(), SERVED, 1),
        )

    def use(self, name: str = "", version: int = 0) -> AbstractContextManager[object]:
        if name not in {"", SERVED} or version not in {0, 1}:
            raise NotFound(f"no bundle {name} is loaded")
        return nullcontext(self._engine)

    def names(self) -> set[str]:
        return {SERVED}

    def load(self, name: str, version: int, wait_s: float) -> None:
        raise NotFound(f"no bundle {name!r} can be loaded")

    def unload(self, name: str, wait_s: float) -> None:
        raise NotFound(f"no bundle {name} is loaded")

    def index(self) -> list[object]:
        return []

    def ready(self) -> list[object]:
        return [self._engine]


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
        registry, limits, metrics = cast("Registry[Engine]", Shelf()), InputLimits(), Metrics()
        calls, sizes = Calls(10.0), MessageLimits()
        recommender = RecommenderServicer(registry, limits, sizes, calls, metrics)
        repository = ModelRepository(registry, lambda: True, limits.entries)
        inference = Inference(repository, limits, sizes, metrics)
        self._kinds = kinds(SERVED)
        self._servicers = {
            RECOMMENDER: recommender,
            ENCODER: EncoderServicer(registry, limits, sizes, calls),
        }
        self._rest = InferenceServicer(inference, repository, calls, lambda: True)
        self._context = cast("grpc.ServicerContext", Context())

    def answer(self, case: Case) -> None:
        """Raises what the edge would have to map."""
        service, _, name = case.method.rpartition("/")
        method: Callable[..., Any] = getattr(self._servicers.get(service + "/", self._rest), name)
        messages = (decode(self._kinds[case.method], data) for data in case.messages)
        if "Stream" in name:
            for reply in method(messages, self._context):
                reply.SerializeToString()
        else:
            reply = method(next(messages), self._context)
            (finish(reply) if inspect.iscoroutine(reply) else reply).SerializeToString()

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
        if (took := time.thread_time() - started) > LIMIT_S:
            return f"!took {took:.2f} s"
        return ending


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
