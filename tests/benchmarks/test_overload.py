"""Far beyond capacity the server keeps working, answers in time what it accepts, and refuses the rest at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from swiftrec.benchmarks.overload import OPEN_DOOR, Step, Target, step, stub_server
from swiftrec.benchmarks.process import Served
from swiftrec.server.models.bundle import Bundle

_SECONDS, _WARMUP_S = 2.0, 0.5
_SHARE = 0.5  # of what an answer takes at most without admission, by when the queue has grown for two seconds


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Served]:
    with stub_server(bundle.folder) as running:
        yield running


@pytest.fixture(scope="module")
def below(server: Served, bundle: Bundle) -> Step:
    """A load that the server can take."""
    return step(Target(server, bundle.folder), 0.9, _SECONDS, _WARMUP_S)


@pytest.fixture(scope="module")
def open_door(bundle: Bundle) -> Step:
    """Three times the capacity without admission: what the others are compared with."""
    with stub_server(bundle.folder, *OPEN_DOOR) as running:
        return step(Target(running, bundle.folder), 3.0, _SECONDS, _WARMUP_S)


@pytest.mark.parametrize("times", [2.0, 5.0, 10.0])
def test_overload_costs_neither_throughput_nor_latency(
    server: Served, bundle: Bundle, below: Step, open_door: Step, times: float
) -> None:
    """Ratios within this run; `swiftrec bench overload` has the bounds in milliseconds."""
    found = step(Target(server, bundle.folder), times, _SECONDS, _WARMUP_S)
    assert (found.others, found.counts) == ([], {})
    assert found.refused > 0
    assert found.goodput > 0.8 * below.goodput
    assert found.accepted_ms < _SHARE * open_door.accepted_ms
    assert found.refused_ms < found.accepted_ms


def test_load_below_capacity_is_answered_whole(below: Step) -> None:
    assert (below.others, below.refused) == ([], 0)


def test_server_is_normal_again_after_an_overload(server: Served, bundle: Bundle, open_door: Step) -> None:
    step(Target(server, bundle.folder), 10.0, seconds=1.0, warmup_s=0.5)
    after = step(Target(server, bundle.folder), 0.5, _SECONDS, _WARMUP_S)
    assert (after.others, after.refused) == ([], 0)
    assert after.accepted_ms < _SHARE * open_door.accepted_ms


def test_bounds_of_the_command_fail_without_admission(open_door: Step) -> None:
    """Negative control of `faults`."""
    assert any("p99 of accepted" in fault for fault in open_door.faults())
