"""Far beyond capacity the server keeps working, answers in time what it accepts, and refuses the rest at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.overload import OPEN_DOOR, SERVICE_MS, step, stub_server
from benchmarks.process import Served
from server.models.bundle import Bundle


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Served]:
    with stub_server(bundle.folder) as running:
        yield running


@pytest.mark.parametrize("times", [0.5, 1.0, 1.5, 2.0, 5.0, 10.0])
def test_overload_costs_neither_throughput_nor_latency(server: Served, bundle: Bundle, times: float) -> None:
    found = step(server, bundle.folder, times)
    assert found.faults() == []
    assert times < 2 or found.refused > 0


def test_server_is_normal_again_within_5_s(server: Served, bundle: Bundle) -> None:
    step(server, bundle.folder, 10.0, seconds=1.0, warmup_s=0.5)
    after = step(server, bundle.folder, 0.5, seconds=2.0, warmup_s=1.0)
    assert after.refused == 0
    assert after.faults() == []
    assert after.accepted_ms <= 4 * SERVICE_MS


def test_without_admission_the_same_check_fails(bundle: Bundle) -> None:
    """Negative control."""
    with stub_server(bundle.folder, *OPEN_DOOR) as running:
        found = step(running, bundle.folder, 3.0)
    assert any("p99 of accepted" in fault for fault in found.faults())
