"""Converts statistics of a model to messages of Triton's statistics extension."""

from __future__ import annotations

from tritonclient.grpc import service_pb2 as pb

from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.worker.open_inference.models import ModelSpec


def model_statistics(name: str, spec: ModelSpec, recommender: Recommender) -> pb.ModelStatistics:
    """Statistics since the bundle was loaded. Requests are counted for the requested model, batches for the model run.

    As in Triton, success and queue include cache hits; compute durations only count cache misses.
    """
    statistics = recommender.recorder.models[spec.stats_key].snapshot()

    def duration(count: int, ns: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=ns)

    return pb.ModelStatistics(
        name=name,
        version=str(recommender.bundle.manifest.version),
        last_inference=statistics.last_ms,
        inference_count=statistics.inferences,
        execution_count=statistics.executions,
        inference_stats=pb.InferStatistics(
            success=duration(statistics.success, statistics.success_ns),
            fail=duration(statistics.failure, statistics.failure_ns),
            queue=duration(statistics.success, statistics.queue_ns),
            compute_input=duration(statistics.cache_misses, 0),
            compute_infer=duration(statistics.cache_misses, statistics.compute_ns),
            compute_output=duration(statistics.cache_misses, 0),
            cache_hit=duration(statistics.cache_hits, statistics.cache_hit_ns),
            cache_miss=duration(statistics.cache_misses, 0),
        ),
        batch_stats=[
            pb.InferBatchStatistics(
                batch_size=size,
                compute_input=duration(batches.batches, 0),
                compute_infer=duration(batches.batches, batches.compute_ns),
                compute_output=duration(batches.batches, 0),
            )
            for size, batches in sorted(statistics.sizes.items())
        ],
    )
