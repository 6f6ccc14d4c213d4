"""BentoML: Starlette in one process with its dispatcher, HTTP (its gRPC is left over from the old Service API).

Its documentation ("Adaptive batching"): mark the API `batchable`, set `max_batch_size`; the window adapts itself below
`max_latency_ms`, beyond which requests are refused; ("Concurrency"): with batching `concurrency` is the batch size.
The access log is off, as it is for the others. After a load its dispatcher goes on waiting about as long as requests
waited then (`CorkDispatcher.controller`): its p50 with one in flight is therefore taken before. Its uvicorn closes
connections that idle for 5 s (see `transports.py`). https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html,
https://docs.bentoml.com/en/latest/guides/concurrency.html
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bentoml

from swiftrec.benchmarks.peers.servers.job import PeerJob, number

_BATCH = number("BATCH")


@bentoml.service(workers=1, traffic={"timeout": 60, "concurrency": _BATCH}, logging={"access": {"enabled": False}})
class BentoMLService:
    """{"texts": [...]} in, a list of lists of item ids out."""

    def __init__(self) -> None:
        self._job = PeerJob.from_environment()

    @bentoml.api(batchable=True, max_batch_size=_BATCH, max_latency_ms=number("WAIT_MS"))
    def recommend(self, texts: list[str]) -> list[list[str]]:
        """Recommend items for a batch of requests."""
        return self._job.answer(texts)


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("bentoml"))
    address = ["--host", "127.0.0.1", "--port", str(number("PORT"))]
    os.execv(program, [program, "serve", "swiftrec.benchmarks.peers.servers.bentoml_server:BentoMLService", *address])  # noqa: S606
