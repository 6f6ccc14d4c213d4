"""The PyTorch teacher behind the server takes batches as they come."""

from __future__ import annotations

from swiftrec.benchmarks.teacher_server import FlatCost
from swiftrec.server.batching.cost_model import CostModel
from swiftrec.server.batching.scheduler import Limits, form_batches

_LENGTHS = [8, 120, 9, 110, 8, 115, 9, 128]
_LIMITS = Limits(jobs=8, tokens=100_000)


def test_teacher_takes_what_came_whatever_its_length() -> None:
    assert [sorted(batch) for batch in form_batches(_LENGTHS, _LIMITS, FlatCost())] == [list(range(8))]


def test_the_servers_own_cost_model_would_not() -> None:
    """Negative control."""
    batches = form_batches(_LENGTHS, _LIMITS, CostModel())
    assert len(batches) > 1
    assert all(len({_LENGTHS[n] > 100 for n in batch}) == 1 for batch in batches)
