"""Metrics and labels under their old names, exported for one release. Made at scrape time from the new ones."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import Metric


def renamed(metric: Metric, old_name: str) -> Metric:
    """The same metric under its old name."""
    alias = Metric(old_name, f"Deprecated: use {metric.name}", metric.type)
    alias.samples = [
        sample._replace(name=old_name + sample.name.removeprefix(metric.name)) for sample in metric.samples
    ]
    return alias


def with_old_label(metric: Metric, new: str, old: str, old_values: Mapping[str, str] | None = None) -> Metric:
    """The same metric, each sample of which also has the old label.

    Args:
        metric: has the label `new`.
        new: the label.
        old: its old name.
        old_values: old names of values that were renamed, too.
    """
    both = Metric(metric.name, f"{metric.documentation}; label {old} is deprecated: use {new}", metric.type)
    both.samples = [
        sample._replace(labels=sample.labels | {old: (old_values or {}).get(sample.labels[new], sample.labels[new])})
        for sample in metric.samples
    ]
    return both
