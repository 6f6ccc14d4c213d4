"""What a model has done, as the statistics extension says it."""

from __future__ import annotations

from tritonclient.grpc import service_pb2 as pb

from server.api.inference.models import ModelSpec
from server.pipeline.engine import Engine


def model_statistics(name: str, spec: ModelSpec, engine: Engine) -> pb.ModelStatistics:
    """Since the bundle was loaded; requests count under the model that was asked, batches where they ran."""
    seen = engine.watch.models[spec.watched].statistics

    def duration(count: int, ns: int) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=ns)

    with seen.lock:
        return pb.ModelStatistics(
            name=name,
            version=str(engine.bundle.manifest.version),
            last_inference=seen.last_ms,
            inference_count=seen.inferences,
            execution_count=seen.executions,
            inference_stats=pb.InferStatistics(
                success=duration(seen.success, seen.success_ns),
                fail=duration(seen.failure, seen.failure_ns),
                queue=duration(seen.inferences, seen.queue_ns),
                compute_input=duration(seen.executions, 0),
                compute_infer=duration(seen.executions, seen.compute_ns),
                compute_output=duration(seen.executions, 0),
                cache_hit=duration(seen.cache_hits, 0),
                cache_miss=duration(seen.cache_misses, 0),
            ),
            batch_stats=[
                pb.InferBatchStatistics(
                    batch_size=size,
                    compute_input=duration(one.count, 0),
                    compute_infer=duration(one.count, one.compute_ns),
                    compute_output=duration(one.count, 0),
                )
                for size, one in sorted(seen.sizes.items())
            ],
        )
