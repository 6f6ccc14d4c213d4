"""Reads the server's /metrics: batches, padding, cache and memory of a window."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ScrapedMetrics:
    """Samples by name and the label model, where or code, summed over all other labels."""

    values: dict[tuple[str, str], float]
    buckets: dict[tuple[str, str], dict[float, float]]

    def value(self, name: str, label: str = "") -> float:
        """A value; 0 if there is none."""
        return self.values.get((name, label), 0.0)


def read_metrics(address: str) -> ScrapedMetrics:
    """Read the metrics at HOST:PORT.

    Raises:
        RuntimeError: nothing responds.
    """
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as response:
            text = response.read().decode()
    except OSError as error:
        raise RuntimeError(f"no metrics at {address} ({error}): give the server's --metrics-port there") from None
    values: defaultdict[tuple[str, str], float] = defaultdict(float)
    buckets: defaultdict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label = next((sample.labels[name] for name in ("model", "source", "code") if sample.labels.get(name)), "")
            if "le" in sample.labels:
                edge = float(sample.labels["le"])
                cumulative = buckets[sample.name.removesuffix("_bucket"), label]
                cumulative[edge] = cumulative.get(edge, 0.0) + sample.value
            else:
                values[sample.name, label] += sample.value
    return ScrapedMetrics(dict(values), dict(buckets))


def metrics_between(before: ScrapedMetrics, after: ScrapedMetrics) -> dict[str, float]:
    """What happened between two readings; memory is that of the second.

    `batch_jobs`, `batch_tokens` and `padding` (a share) are means over the batches of the encoder. `cache_hits` is the
    share of texts whose vector was cached or being computed.
    """

    def grew(name: str, label: str = "encoder") -> float:
        return after.value(name, label) - before.value(name, label)

    batches = grew("swiftrec_batch_size_count")
    lookups = {source: grew("swiftrec_cache_lookups_total", source) for source in ("hit", "coalesced", "miss")}
    total = sum(lookups.values())
    return {
        "batches": batches,
        "batch_jobs": grew("swiftrec_batch_size_sum") / batches if batches else 0.0,
        "batch_tokens": grew("swiftrec_batch_tokens_sum") / batches if batches else 0.0,
        "padding": grew("swiftrec_padding_ratio_sum") / batches if batches else 0.0,
        "cache_hits": 1.0 - lookups["miss"] / total if total else 0.0,
        "memory_mb": after.value("process_resident_memory_bytes") / 2**20,
    }


def batch_sizes(before: ScrapedMetrics, after: ScrapedMetrics) -> dict[str, float]:
    """Batches of the encoder by size: upper edge of the bucket -> number."""
    name = ("swiftrec_batch_size", "encoder")
    late, early = after.buckets.get(name, {}), before.buckets.get(name, {})
    sizes, below = {}, 0.0
    for edge in sorted(late):
        upto = late[edge] - early.get(edge, 0.0)
        sizes[f"{edge:g}"] = upto - below
        below = upto
    return sizes
