"""docs/metrics.md has a row for each metric, with its labels, and none for a metric that there is not."""

from __future__ import annotations

import re

import pytest
from prometheus_client.core import Metric

from server.batching.admission import RejectReason
from server.batching.scheduler import Reason
from server.telemetry.metrics import BundleRecorder, Metrics
from tests.conftest import ROOT

_ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))


def declared() -> dict[str, Metric]:
    """Every metric of a server with one bundle, by the name that /metrics shows."""
    metrics = Metrics()
    metrics.calls.labels("Recommend", "OK").add(0.1)
    bundle = BundleRecorder(metrics, "b", 1)
    bundle.models["encoder"].dropped("expired")
    metrics.stepped(Reason.FULL)
    metrics.rejected(RejectReason.FULL)
    metrics.bundles = lambda: [bundle]
    found = list(metrics.registry.collect())
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found}


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


def test_check_catches_a_row_without_its_label() -> None:
    name = "swiftrec_call_seconds"
    wrong = {name: _ROWS[name].replace("`method`, ", "")}
    assert missing(wrong, name, _DECLARED[name]) == {"method"}


@pytest.mark.parametrize(
    ("name", "words"), [("swiftrec_calls_rejected_total", RejectReason), ("swiftrec_steps_total", Reason)]
)
def test_values_of_a_label_are_explained(name: str, words: type[RejectReason] | type[Reason]) -> None:
    assert {word.value for word in words if not re.search(rf"\b{word.value}\b", _ROWS[name])} == set()


def test_alerts_name_only_metrics_that_there_are() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text().partition("## Five alerts")[2]
    used = set(re.findall(r"\b((?:swiftrec|nv|process)_\w+?)(?:_bucket|_count|_sum)?\b", page))
    assert used <= set(_DECLARED)
