"""What the server's /metrics say of a window: batches, padding, cache, memory."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """Samples by name and model (or where a vector came from, or status code), summed over all other labels."""

    values: dict[tuple[str, str], float]
    buckets: dict[tuple[str, str], dict[float, float]]

    def of(self, name: str, which: str = "") -> float:
        """A value, 0 if there is none."""
        return self.values.get((name, which), 0.0)


def scrape(address: str) -> Scrape:
    """Read the metrics at HOST:PORT.

    Raises:
        RuntimeError: nothing answers.
    """
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as reply:
            text = reply.read().decode()
    except OSError as error:
        raise RuntimeError(f"no metrics at {address} ({error}): give the server's --metrics-port there") from None
    values: defaultdict[tuple[str, str], float] = defaultdict(float)
    buckets: defaultdict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            which = next((sample.labels[name] for name in ("model", "where", "code") if sample.labels.get(name)), "")
            if "le" in sample.labels:
                edge = float(sample.labels["le"])
                here = buckets[sample.name.removesuffix("_bucket"), which]
                here[edge] = here.get(edge, 0.0) + sample.value
            else:
                values[sample.name, which] += sample.value
    return Scrape(dict(values), dict(buckets))


def between(before: Scrape, after: Scrape) -> dict[str, float]:
    """What happened from one scrape to the other; memory is that of the second.

    Means a batch of the encoder; `padding` is the mean share of padding in one; `cache_hits` the share of texts whose
    vector was there already or on its way.
    """

    def grew(name: str, which: str = "encoder") -> float:
        return after.of(name, which) - before.of(name, which)

    batches = grew("swiftrec_batch_jobs_count")
    lookups = {where: grew("swiftrec_cache_lookups_total", where) for where in ("hit", "joined", "miss")}
    asked = sum(lookups.values())
    return {
        "batches": batches,
        "batch_jobs": grew("swiftrec_batch_jobs_sum") / batches if batches else 0.0,
        "batch_tokens": grew("swiftrec_batch_tokens_sum") / batches if batches else 0.0,
        "padding": grew("swiftrec_padding_ratio_sum") / batches if batches else 0.0,
        "cache_hits": 1.0 - lookups["miss"] / asked if asked else 0.0,
        "memory_mb": after.of("process_resident_memory_bytes") / 2**20,
    }


def batch_sizes(before: Scrape, after: Scrape) -> dict[str, float]:
    """Batches of the encoder by size: upper edge of the bucket -> how many."""
    name = ("swiftrec_batch_jobs", "encoder")
    late, early = after.buckets.get(name, {}), before.buckets.get(name, {})
    found, below = {}, 0.0
    for edge in sorted(late):
        upto = late[edge] - early.get(edge, 0.0)
        found[f"{edge:g}"] = upto - below
        below = upto
    return found
