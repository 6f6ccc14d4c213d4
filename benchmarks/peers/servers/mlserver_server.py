"""MLServer: grpc.aio in Python, gRPC of the Open Inference Protocol.

Its documentation ("Adaptive batching"): both `max_batch_size` and `max_batch_time` must be set, to values found by
trying; ("Parallel inference"): a pool of worker processes for models that need several cores, none with
`parallel_workers` 0, which is what one core calls for; a pool of one was not tried.
https://docs.seldon.ai/mlserver/user-guide/adaptive-batching
"""

from __future__ import annotations

import asyncio

from mlserver import MLModel, MLServer
from mlserver.codecs import StringCodec
from mlserver.settings import ModelParameters, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse

from swiftrec.benchmarks.peers.servers.job import PeerJob, number


class MLServerModel(MLModel):
    """TEXT [n, 1] in, ITEM_ID [n, 10] out."""

    async def load(self) -> bool:
        """Load."""
        self._job = PeerJob.from_environment()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Recommend items for a batch of requests."""
        answers = self._job.answer(StringCodec.decode_input(payload.inputs[0]))
        output = StringCodec.encode_output("ITEM_ID", [item for answer in answers for item in answer])
        output.shape = [len(answers), len(answers[0])]
        return InferenceResponse(model_name=self.name, outputs=[output])


async def main() -> None:
    """Serve until SIGTERM."""
    ports = {"grpc_port": number("PORT"), "http_port": number("SPARE_1"), "metrics_port": number("SPARE_2")}
    server = MLServer(Settings(host="127.0.0.1", debug=False, parallel_workers=0, **ports))
    model = ModelSettings(
        name="recommend",
        implementation=MLServerModel,
        max_batch_size=number("BATCH"),
        max_batch_time=number("WAIT_MS") / 1e3,
        parameters=ModelParameters(version="1"),
    )
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
