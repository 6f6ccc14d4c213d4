"""Ten thousand deadlines and ten thousand cancels: nothing late ever runs, and nothing is left behind."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

import grpc

from benchmarks.stub import StubSession
from server.app import App
from server.batching.admission import Load, Refusal
from server.batching.batcher import Batcher
from server.batching.policy import Limits
from server.config import ServerSettings
from server.errors import DeadlineExceeded, SwiftrecError
from server.models.bundle import Bundle
from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.until import until

_NUMBER, _LONG = 10_000, 60.0


class Ticking:
    """A model whose batches take simulated time; it keeps the deadlines that had passed when a job ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.late: list[float] = []
        self.ran = 0

    def clock(self) -> float:
        return self.now

    def run(self, deadlines: Sequence[float]) -> Sequence[float]:
        self.late += [deadline for deadline in deadlines if deadline <= self.now]
        self.ran += len(deadlines)
        self.now += 0.01 * len(deadlines)
        return deadlines


def everything(load: Load, tokens: int, run_s: float, patience_s: float, limits: Limits) -> Refusal | None:
    """Admission that lets everything in, so that deadlines pass in the queue."""
    return None


def test_of_10_000_random_deadlines_no_expired_one_runs() -> None:
    model, rng, over = Ticking(), random.Random(7), threading.Semaphore(0)
    results: list[object] = []

    def done(result: float | SwiftrecError) -> None:
        results.append(result)
        over.release()

    batcher: Batcher[float, float] = Batcher("test", model, Limits(jobs=16), clock=model.clock, admit=everything)
    for _ in range(_NUMBER):
        deadline = rng.uniform(0.001, 0.02 * _NUMBER)
        batcher.submit(deadline, rng.randint(1, 60), deadline, done)
    batcher.start()
    for _ in range(_NUMBER):
        assert over.acquire(timeout=_LONG)
    batcher.stop()
    expired = sum(isinstance(result, DeadlineExceeded) for result in results)
    assert model.late == []
    assert model.ran + expired == _NUMBER == len(results)
    assert min(model.ran, expired) > _NUMBER / 10  # both kinds were there
    assert (batcher.load().jobs, batcher.load().tokens) == (0, 0)


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
    app, rng = App(settings, open_session=lambda path, *_: StubSession.of(path, 0.002)), random.Random(7)
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
                loads = [batcher.load() for batcher in (engine.encode, engine.rank)]
                waiting = [number for load in loads for number in (load.jobs, load.tokens)]
                return [app.doors.inside, engine.encodings.in_flight, *waiting]

            # Clients are told of their cancels before the server is, which may still be at work on the last calls.
            until(lambda: not any(held()), held)
    finally:
        app.stop()
    assert not any(held())
    codes = Counter(ended_as)
    assert set(codes) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert sum(codes.values()) == _NUMBER
    assert min(codes["OK"], codes["CANCELLED"], codes["DEADLINE_EXCEEDED"]) > 100
