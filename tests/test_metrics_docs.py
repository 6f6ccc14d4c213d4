"""docs/metrics.md has a row for each metric, with its labels; no page names a metric that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from swiftrec.server.batching.admission import RejectReason
from swiftrec.server.batching.scheduler import Reason
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics
from tests.conftest import ROOT

_ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))

_SERIES = ("_bucket", "_count", "_sum")
_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def declared() -> dict[str, Metric]:
    """Every metric of a server with one bundle, by the name that /metrics shows."""
    metrics = Metrics()
    metrics.calls.labels("Recommend", "OK").add(0.1)
    bundle = BundleRecorder(metrics, "b", 1)
    bundle.models["encoder"].on_dropped("expired")
    metrics.on_step(Reason.FULL)
    metrics.on_rejected(RejectReason.FULL)
    metrics.bundles = lambda: [bundle]
    collected = list(metrics.registry.collect())
    return {f"{metric.name}_total" if metric.type == "counter" else metric.name: metric for metric in collected}


_DECLARED = declared()


def missing(rows: dict[str, str], name: str, metric: Metric) -> set[str]:
    """What the row of a metric lacks: its kind and its labels."""
    labels = {label for sample in metric.samples for label in sample.labels} - {"le"}
    cells = [cell.strip() for cell in rows.get(name, "||").split("|")]
    return ({metric.type} - {cells[0]}) | (labels ^ set(re.findall(r"`(\w+)`", cells[1])))


def test_page_has_every_metric_and_no_other() -> None:
    assert set(_ROWS) == set(_DECLARED)


@pytest.mark.parametrize("name", sorted(_DECLARED))
def test_row_has_kind_and_labels(name: str) -> None:
    assert missing(_ROWS, name, _DECLARED[name]) == set()


def test_check_detects_a_row_without_its_label() -> None:
    name = "swiftrec_call_seconds"
    wrong = {name: _ROWS[name].replace("`method`, ", "")}
    assert missing(wrong, name, _DECLARED[name]) == {"method"}


@pytest.mark.parametrize(
    ("name", "words"), [("swiftrec_calls_rejected_total", RejectReason), ("swiftrec_steps_total", Reason)]
)
def test_values_of_a_label_are_explained(name: str, words: type[RejectReason] | type[Reason]) -> None:
    assert {word.value for word in words if not re.search(rf"\b{word.value}\b", _ROWS[name])} == set()


def unknown_metrics(page: str) -> set[str]:
    """Metrics that a page names and that there are not; a name may be that of a histogram's series, or end with *."""
    page = re.sub(r"^## Removed names$.*?(?=^## )", "", page, flags=re.MULTILINE | re.DOTALL)
    used = set(re.findall(r"\b(?:swiftrec|nv|process)_\w+\*?", page))
    series = {f"{name}{end}" for name, metric in _DECLARED.items() if metric.type == "histogram" for end in _SERIES}
    return {name for name in used - set(_DECLARED) - series if not _is_prefix(name)}


def _is_prefix(name: str) -> bool:
    return name.endswith("*") and any(known.startswith(name.removesuffix("*")) for known in _DECLARED)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_pages_name_only_existing_metrics(page: Path) -> None:
    assert unknown_metrics(page.read_text()) == set()


def test_check_detects_a_metric_that_does_not_exist() -> None:
    page = "`swiftrec_jobs_lost_total`, rate(swiftrec_call_seconds_count[5m]), nv_cache_*, nv_caches_*"
    assert unknown_metrics(page) == {"swiftrec_jobs_lost_total", "nv_caches_*"}
