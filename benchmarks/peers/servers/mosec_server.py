"""mosec: front in Rust, batches in Python worker processes, HTTP.

Its documentation ("Interface", `append_worker`): turn dynamic batching on with `max_batch_size`; `max_wait_time` bounds
the wait for more (the command line's default is 10 ms); `num` processes for several cores.
https://mosecorg.github.io/mosec/reference/interface.html
"""

from __future__ import annotations

import os
import sys

from mosec import Server, Worker

from swiftrec.benchmarks.peers.servers.job import PeerJob, number


class MosecWorker(Worker):
    """{"text": ...} in, list of item ids out; JSON, mosec's default."""

    def __init__(self) -> None:
        self._job = PeerJob.from_environment()

    def forward(self, data: list[dict[str, str]]) -> list[list[str]]:
        """Recommend items for a batch of requests."""
        return self._job.answer([entry["text"] for entry in data])


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", os.environ["PEER_PORT"], "--timeout", "30000"]
    server = Server()
    server.append_worker(MosecWorker, num=1, max_batch_size=number("BATCH"), max_wait_time=number("WAIT_MS"))
    server.run()
