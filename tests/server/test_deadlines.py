"""Ten thousand deadlines and ten thousand cancels: nothing late ever runs, and nothing is left behind."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import cast

import grpc

from swiftrec.benchmarks.null_model_server import NullSession
from swiftrec.server.app import App
from swiftrec.server.batching.admission import Load, RejectReason
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import DeadlineExceeded
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.pipeline.request_state import TextState
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics
from swiftrec.server.ticket import Reply, Ticket
from swiftrec.server.worker.work import Work
from swiftrec.server.worker.worker import Worker
from tests.until import until

_NUMBER, _LONG = 10_000, 60.0


class Ticking:
    """An engine whose steps take simulated time; it keeps the deadlines that had passed when a request ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.late: list[float] = []
        self.ran = 0
        self.recorder = BundleRecorder(Metrics(), "ticking", 1)

    def clock(self) -> float:
        return self.now

    def run(self, batch: Sequence[TextState]) -> None:
        deadlines = [cast("Ticket", state.call).deadline for state in batch]
        self.late += [deadline for deadline in deadlines if deadline <= self.now]
        self.ran += len(batch)
        self.now += 0.01 * len(batch)


def works_of(engine: Ticking, rng: random.Random) -> type[Work]:
    class OneText(Work):
        """A call with one text."""

        def open(self) -> tuple[()]:
            state = TextState([[1] * rng.randint(1, 60)])
            state.tokens, state.cost_s = len(state.rows[0]), 0.001
            self.add(cast("Recommender", engine), [state], "encoder", rng.randint(1, 9))
            return ()

        def respond(self, now: float) -> bytes:
            return b"done"

    return OneText


def everything(load: Load, tokens: int, run_s: float, time_left_s: float, limits: Limits) -> RejectReason | None:
    """Admission that lets everything in, so that deadlines pass in the queue."""
    return None


def test_of_10_000_random_deadlines_no_expired_one_runs() -> None:
    engine, rng, replies = Ticking(), random.Random(7), list[Reply]()
    methods = {"Encode": works_of(engine, rng)}
    worker = Worker(methods, Limits(jobs=16), clock=engine.clock, reject=everything)
    for _ in range(_NUMBER):
        worker.admit(Ticket("Encode", b"", rng.uniform(0.001, 0.02 * _NUMBER), replies.append))
    while worker.has_work:
        worker.step()
    expired = sum(isinstance(reply, DeadlineExceeded) for reply in replies)
    answered = replies.count(b"done")
    assert engine.late == []
    assert answered + expired == _NUMBER == len(replies)
    assert answered <= engine.ran  # a deadline may pass during the step
    assert min(engine.ran, expired) > _NUMBER / 10  # both kinds were there
    model = engine.recorder.models["encoder"]
    assert (worker.load, worker.calls, model.waiting_jobs, model.waiting_tokens) == (Load(0, 0, 0.0), 0, 0, 0)


def test_10_000_random_cancels_leave_every_gauge_at_0(bundle: Bundle) -> None:
    settings = ServerSettings(
        bundle=[bundle.folder],
        port=0,
        metrics_port=0,
        sessions=2,
        max_calls=512,
        max_streams=_NUMBER,  # a cancel frees the client's place in a connection before the server has heard of it
        _cli_parse_args=[],
    )
    app, rng = App(settings, open_session=lambda path, *_: NullSession.of(path, 0.002)), random.Random(7)
    app.start()
    in_flight = threading.Semaphore(200)
    ended_as: list[str] = []
    try:
        with grpc.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            stub = RecommenderServiceStub(channel)
            for n in range(_NUMBER):
                assert in_flight.acquire(timeout=_LONG)
                request = pb.RecommendRequest(query=f"text {n % 3_000}", history=[pb.Event(text=f"seen {n}")])
                call = stub.Recommend.future(request, timeout=rng.choice([0.001, 0.01, 30.0]))

                def ended(answered: grpc.Call) -> None:
                    ended_as.append(answered.code().name)  # at once: threads of gRPC's and this one call it
                    in_flight.release()

                call.add_done_callback(ended)  # type: ignore[arg-type] # a call and a future
                if rng.random() < 0.5:
                    call.cancel()  # type: ignore[no-untyped-call]
            for _ in range(200):
                assert in_flight.acquire(timeout=_LONG)
        with app.registry.use() as engine:

            def held() -> list[int]:
                models = engine.recorder.models.values()
                waiting = [number for model in models for number in (model.waiting_jobs, model.waiting_tokens)]
                return [app.limiters.calls.in_use, app.worker.calls, app.worker.load.jobs, *waiting]

            # Clients are told of their cancels before the server is, which may still be at work on the last calls.
            until(lambda: not any(held()), held)
    finally:
        app.stop()
    assert not any(held())
    codes = Counter(ended_as)
    assert set(codes) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert sum(codes.values()) == _NUMBER
    assert min(codes["OK"], codes["CANCELLED"], codes["DEADLINE_EXCEEDED"]) > 100
