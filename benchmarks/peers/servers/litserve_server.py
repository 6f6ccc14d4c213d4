"""LitServe: FastAPI before worker processes, HTTP.

Its documentation ("Batching", and the reference of `LitServer`): set `max_batch_size` and a small `batch_timeout`; one
worker for each device; `fast_queue` (ZeroMQ between front and workers) for high throughput.
https://lightning.ai/docs/litserve/features/batching, https://lightning.ai/docs/litserve/api-reference/litserver
"""

from __future__ import annotations

import litserve

from swiftrec.benchmarks.peers.servers.job import PeerJob, number


class LitServeApi(litserve.LitAPI):
    """{"text": ...} in, list of item ids out."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (LitServe's signature)
        """Load."""
        self._job = PeerJob.from_environment()

    def decode_request(self, request: dict[str, str]) -> str:
        """The text."""
        return request["text"]

    def predict(self, x: list[str]) -> list[list[str]]:
        """Recommend items for a batch of requests."""
        return self._job.answer(x)

    def encode_response(self, output: list[str]) -> list[str]:
        """The ids as they are."""
        return output


if __name__ == "__main__":
    api = LitServeApi(max_batch_size=number("BATCH"), batch_timeout=number("WAIT_MS") / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=number("PORT"), num_api_servers=1, generate_client_file=False, log_level="error")
