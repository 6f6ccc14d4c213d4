"""Rates: what is learned of the speed of work, whatever single outliers say."""

from __future__ import annotations

import pytest

from swiftrec.server.batching.cost_model import Rate


def learned(*seconds: float) -> float:
    """Predicted seconds of a unit after 100 units of 1 ms, and then these."""
    rate = Rate(1e-3)
    for took_s in (*[1e-3] * 100, *seconds):
        rate.observe(1, took_s)
    return rate(1)


@pytest.mark.parametrize("outliers", [[1.0], [1.0, 1.0], [1.0, 1e-3, 1.0, 1.0, 1e-3]])
def test_rate_is_not_changed_by_outliers(outliers: list[float]) -> None:
    assert learned(*outliers) == pytest.approx(1e-3)


def test_rate_follows_work_that_became_slower() -> None:
    assert learned(*[1.0] * 3) > 0.09
    assert learned(*[1.0] * 30) == pytest.approx(1.0, rel=0.1)


def test_rate_follows_work_that_became_faster() -> None:
    assert learned(*[1e-5] * 60) == pytest.approx(1e-5, rel=0.3)
