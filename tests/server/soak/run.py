"""Mixed requests, bad ones, cancels and expired deadlines among them, while the server's memory is sampled."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import psutil
from tritonclient.grpc import service_pb2

from swiftrec.server.pb.swiftrec.v1 import encoder_pb2
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from tests.server.support.process import Server

IN_FLIGHT = 32
LIMIT_MB = 10.0  # of the second half: max minus mean
_SAMPLES = 200
_LONG = 60.0


@dataclass(slots=True)
class Outcome:
    """Status codes, and memory in MB at equal steps of the run."""

    codes: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)

    @property
    def growth_mb(self) -> float:
        """Max minus mean of the second half."""
        half = np.array(self.memory_mb[len(self.memory_mb) // 2 :])
        return float(half.max() - half.mean())

    @property
    def is_steady(self) -> bool:
        """The verdict."""
        return self.growth_mb <= LIMIT_MB


def soak(
    server: Server, number: int, seed: int = 7, shown: Callable[[int, Outcome], None] = lambda *_: None
) -> Outcome:
    """Send `number` requests, 32 in flight; `shown` is called at each sample."""
    rng, outcome, process = random.Random(seed), Outcome(), psutil.Process(server.pid)
    places, lock = threading.Semaphore(IN_FLIGHT), threading.Lock()

    def ended(call: grpc.Call) -> None:
        with lock:
            outcome.codes[call.code().name] += 1
        places.release()

    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for n in range(number):
            if n % max(1, number // _SAMPLES) == 0:
                outcome.memory_mb.append(process.memory_info().rss / 1e6)
                shown(n, outcome)
            assert places.acquire(timeout=_LONG)
            method, data = _request(rng, n)
            timeout = 0.001 if rng.random() < 0.02 else _LONG
            call = channel.unary_unary(method, None, None).future(data, timeout=timeout)
            call.add_done_callback(ended)  # type: ignore[arg-type] # a call and a future
            if rng.random() < 0.02:
                call.cancel()  # type: ignore[no-untyped-call]
        for _ in range(IN_FLIGHT):
            assert places.acquire(timeout=_LONG)
    return outcome


def _request(rng: random.Random, n: int) -> tuple[str, bytes]:
    text = f"a film about {n} {rng.choice(('trains', 'the sea', 'a quiet town'))}"
    kind = rng.random()
    if kind < 0.4:
        history = [pb.Event(item_id=str(rng.randint(1, 1_700))) for _ in range(rng.randint(0, 20))]
        message = pb.RecommendRequest(history=history, query=text, top_k=rng.randint(1, 50))
        return "/swiftrec.v1.RecommenderService/Recommend", message.SerializeToString()
    if kind < 0.7:
        return "/swiftrec.v1.EncoderService/Encode", encoder_pb2.EncodeRequest(texts=[text]).SerializeToString()
    if kind < 0.95:
        infer = service_pb2.ModelInferRequest(model_name="encoder", id=str(n))
        tensor = infer.inputs.add(name="TEXT", datatype="BYTES", shape=(1, 1))
        tensor.contents.bytes_contents.append(text.encode())
        return "/inference.GRPCInferenceService/ModelInfer", infer.SerializeToString()
    return "/swiftrec.v1.RecommenderService/Recommend", rng.choice((b"\xff\xff", b"\x18\x00", b"\x12\x02\xff\xfe"))
