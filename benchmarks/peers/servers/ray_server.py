"""Ray Serve: a proxy process before replica processes, gRPC with Swiftrec's own contract (Ray brings none).

Its documentation ("Dynamic request batching", "Performance tuning"): `serve.batch` with a batch size and a short wait,
`max_ongoing_requests` above the batch size, and `RAY_SERVE_THROUGHPUT_OPTIMIZED=1`. Its HAProxy front needs a
program that pip does not install. The access log is off, as it is for the others.
https://docs.ray.io/en/latest/serve/advanced-guides/performance.html
"""

from __future__ import annotations

import os
import signal

os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"}  # read when ray is imported

import ray
from ray import serve
from ray.serve.config import gRPCOptions

from swiftrec.benchmarks.peers.servers.job import PeerJob, number
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb

_SERVICE = "swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc.add_RecommenderServiceServicer_to_server"
_STORE_BYTES = 100_000_000


class RayDeployment:
    """Recommend with a query."""

    def __init__(self) -> None:
        self._job = PeerJob.from_environment()

    @serve.batch(max_batch_size=number("BATCH"), batch_wait_timeout_s=number("WAIT_MS") / 1e3)
    async def _answer(self, texts: list[str]) -> list[list[str]]:
        return self._job.answer(texts)

    async def Recommend(self, request: pb.RecommendRequest) -> pb.RecommendResponse:  # noqa: N802 (the contract's)
        """Respond to one request, which is batched with others."""
        ids: list[str] = await self._answer(request.query)
        return pb.RecommendResponse(items=[pb.RankedItem(item_id=item) for item in ids])


if __name__ == "__main__":
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=_STORE_BYTES, log_to_driver=False)
    front = gRPCOptions(port=number("PORT"), grpc_servicer_functions=[_SERVICE])
    serve.start(http_options={"host": "127.0.0.1", "port": number("SPARE_1")}, grpc_options=front)
    deployment = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=256,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )
    serve.run(deployment(RayDeployment).bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
