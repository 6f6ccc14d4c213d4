"""The PyTorch teacher behind the server takes batches as they come."""

from __future__ import annotations

from benchmarks.teacher_server import FlatCost
from server.batching.cost import CostModel
from server.batching.job import Job
from server.batching.policy import Limits, plan

_LENGTHS = [8, 120, 9, 110, 8, 115, 9, 128]


def chosen(cost: CostModel) -> list[int]:
    """Lengths of the first batch of four among jobs that came in turn, short and long."""
    jobs: list[Job[None, None]] = []
    for n, tokens in enumerate(_LENGTHS):
        job: Job[None, None] = Job(None, tokens, 5, 100.0, lambda _result: None)
        job.arrival = job.due = n * 1e-6
        jobs.append(job)
    return sorted(_LENGTHS[n] for n in plan(jobs, Limits(jobs=4, tokens=100_000), cost, now=1e-4).chosen)


def test_teacher_takes_what_came_first_whatever_its_length() -> None:
    assert chosen(FlatCost()) == sorted(_LENGTHS[:4])


def test_the_servers_own_cost_model_would_not() -> None:
    """Negative control."""
    assert chosen(CostModel()) == [8, 8, 9, 9]
