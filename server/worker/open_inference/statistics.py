"""Statistics of a model in the messages of Triton's statistics extension."""

from __future__ import annotations

from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.worker.open_inference.models import ModelSpec


def model_statistics(name: str, spec: ModelSpec, recommender: Recommender) -> pb.ModelStatistics:
    """Statistics since the bundle was loaded. Requests count under the model that was asked, batches where they ran.

    As in Triton, success and queue count every answered request, cache hits included; the compute durations count the
    others, whose number is that of the cache misses.
    """
    seen = recommender.recorder.models[spec.watched].snapshot()

    def duration(count: int, ns: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=ns)

    return pb.ModelStatistics(
        name=name,
        version=str(recommender.bundle.manifest.version),
        last_inference=seen.last_ms,
        inference_count=seen.inferences,
        execution_count=seen.executions,
        inference_stats=pb.InferStatistics(
            success=duration(seen.success, seen.success_ns),
            fail=duration(seen.failure, seen.failure_ns),
            queue=duration(seen.success, seen.queue_ns),
            compute_input=duration(seen.cache_misses, 0),
            compute_infer=duration(seen.cache_misses, seen.compute_ns),
            compute_output=duration(seen.cache_misses, 0),
            cache_hit=duration(seen.cache_hits, seen.cache_hit_ns),
            cache_miss=duration(seen.cache_misses, 0),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=duration(one.batches, 0),
                compute_infer=duration(one.batches, one.compute_ns),
                compute_output=duration(one.batches, 0),
            )
            for size, one in sorted(seen.sizes.items())
        ],
    )
