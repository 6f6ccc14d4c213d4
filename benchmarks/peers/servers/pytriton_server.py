"""Triton through pytriton (nvidia-pytriton, which brings the Triton binary): gRPC of the Open Inference Protocol.

Triton's documentation ("Batchers", recommended configuration process): decide on a maximum batch size, turn the dynamic
batcher on with its defaults (no delay), then try a longer queue delay or other sizes and keep what is faster.
pytriton's ("Known issues") says that two of its scripts on one machine at a time are not supported: run one comparison
at a time. https://triton-inference-server.github.io/pytriton/latest/known_issues/
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/batcher.html
"""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from swiftrec.benchmarks.peers.servers.job import TOP, PeerJob, number


def main() -> None:
    """Serve until SIGTERM."""
    shutil.copy(Path(__file__).with_name("triton_lock.py"), Path(sysconfig.get_path("purelib")) / "sitecustomize.py")
    job = PeerJob.from_environment()

    @batch
    def infer(**inputs: NDArray[np.object_]) -> dict[str, NDArray[np.bytes_]]:
        answers = job.answer([row[0].decode() for row in inputs["TEXT"]])
        return {"ITEM_ID": np.char.encode(np.array(answers))}

    batcher = DynamicBatcher(max_queue_delay_microseconds=1_000 * number("WAIT_MS"))
    text, ids = Tensor(name="TEXT", dtype=bytes, shape=(1,)), Tensor(name="ITEM_ID", dtype=bytes, shape=(TOP,))
    with Triton(config=TritonConfig(**_ports())) as triton:
        config = ModelConfig(max_batch_size=number("BATCH"), batcher=batcher)
        triton.bind(model_name="recommend", infer_func=infer, inputs=[text], outputs=[ids], config=config)
        triton.serve()


def _ports() -> dict[str, Any]:
    addresses = dict.fromkeys(("http_address", "grpc_address", "metrics_address"), "127.0.0.1")
    ports = {"grpc_port": number("PORT"), "http_port": number("SPARE_1"), "metrics_port": number("SPARE_2")}
    return {**addresses, **ports, "allow_gpu_metrics": False}


if __name__ == "__main__":
    main()
