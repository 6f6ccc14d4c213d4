"""A short soak (`make soak` is the long one), and a leaking build that the same check must catch."""

from __future__ import annotations

from swiftrec.server.models.bundle import Bundle
from tests.server.soak.run import soak
from tests.server.support.process import serving

_NUMBER = 12_000


def test_memory_is_steady_under_mixed_requests(bundle: Bundle) -> None:
    with serving(bundle.folder, "--log-level", "error", module="swiftrec.benchmarks null-server") as server:
        outcome = soak(server, _NUMBER)
    assert outcome.is_steady, f"{outcome.growth_mb:.1f} MB"
    assert sum(outcome.codes.values()) == _NUMBER
    assert {"OK", "INVALID_ARGUMENT", "CANCELLED"} <= set(outcome.codes)
    assert not {"UNKNOWN", "INTERNAL", "UNAVAILABLE"} & set(outcome.codes)


def test_leaking_build_is_detected(bundle: Bundle) -> None:
    with serving(bundle.folder, "--log-level", "error", module="tests.server.soak.leaking") as server:
        outcome = soak(server, _NUMBER)
    assert not outcome.is_steady, f"{outcome.growth_mb:.1f} MB"
