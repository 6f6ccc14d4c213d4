"""The floor, and the parts of a score, measured offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from swiftrec.benchmarks.floor import BATCHES, Floor, FloorMeter, TextGroup, fastest, growing
from swiftrec.benchmarks.microbenchmarks import parts
from swiftrec.benchmarks.workload import make
from swiftrec.server.models.bundle import Bundle


class Clock:
    """Advances only by work."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, durations: list[float]) -> None:
        """Take the next of these times, the last one for ever."""
        self.now += durations.pop(0) if len(durations) > 1 else durations[0]


def works(clock: Clock, times: dict[int, list[float]]) -> dict[int, Callable[[], None]]:
    return {size: partial(clock.work, durations) for size, durations in times.items()}


def test_fastest_pass_counts_and_only_what_is_near_the_best_is_run_again() -> None:
    clock = Clock()
    times = {1: [9.0, 1.0], 4: [5.0, 4.0, 3.0, 2.0], 8: [5.2, 6.0]}
    assert fastest(works(clock, times), clock, 100.0) == pytest.approx({1: 9.0, 4: 3.0, 8: 5.2})


def test_no_pass_begins_when_the_time_is_over() -> None:
    clock = Clock()
    assert fastest(works(clock, {4: [5.0, 1.0], 8: [5.0, 1.0]}), clock, 10.0) == {4: 5.0, 8: 5.0}


def test_share_that_grows_with_the_tokens_leaves_out_what_a_batch_costs_anyway() -> None:
    """Each text costs 50 and 5 a token: of texts of 10 on average half grows."""
    parts = [TextGroup(4, 4 * tokens, 0.0, {8: 4.0 * (50 + 5 * tokens)}) for tokens in (5, 15)]
    assert growing(parts) == pytest.approx(0.5)
    assert growing([TextGroup(4, 4 * n, 0.0, {8: 4.0 * n}) for n in (5, 15)]) == pytest.approx(1.0)
    assert growing([TextGroup(4, 4 * n, 0.0, {8: 4.0}) for n in (5, 15)]) == 0.0
    assert growing([TextGroup(0, 0, 0.0, {8: 0.0})] * 2) == 1.0


class Model:
    """Costs what a batch costs and takes the time of the clock; remembers the sizes."""

    def __init__(self, clock: Clock, cost: Callable[[int], float]) -> None:
        self._clock, self._cost = clock, cost

    def run(self, rows: list[Any]) -> list[Any]:
        """Nothing but time."""
        self._clock.now += self._cost(len(rows))
        return rows


def measured(bundle: Bundle, cost: Callable[[int], float]) -> Floor:
    """The floor of 128 requests of *mixed* with models and a search that cost so much, in microseconds a batch."""
    meter, clock = FloorMeter(bundle.folder, None), Clock()
    meter._clock = clock
    meter.encoder = meter.ranker = Model(clock, lambda size: 1e-6 * cost(size))  # type: ignore[assignment]
    catalogue = meter.catalogue

    def search_many(users: list[Any], allowed: list[Any], k: list[int], boosts: list[Any]) -> list[Any]:
        clock.now += 1e-6 * cost(len(users))
        return [[]] * len(users)

    catalogue.search_many = search_many  # type: ignore[method-assign, assignment]
    return meter.measure(make("mixed", bundle.folder, 128, 7))


@pytest.mark.parametrize("best", BATCHES)
def test_every_step_is_in_its_best_batches(bundle: Bundle, best: int) -> None:
    result = measured(bundle, lambda size: 10.0 * size if size == best else 30.0 * size)
    assert result.best_batch == best
    assert (result.encode_us, result.rank_us, result.search_us) == pytest.approx((10.0, 10.0, 10.0))
    assert result.floor_us == pytest.approx(30.0)
    assert np.argmin([result.by_batch_us[size] for size in BATCHES]) == BATCHES.index(best)


def test_every_kind_of_request_is_measured_with_all_parts_and_with_the_ranker_alone(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = parts.PartsSettings(bundle=bundle.folder, requests=5, repeats=2, _cli_parse_args=[])
    assert parts.run(settings) == 0
    *lines, last = capsys.readouterr().out.strip().splitlines()
    result = json.loads(last)
    for kind in parts.REQUEST_KINDS:
        assert any(line.startswith(kind) for line in lines)
        assert all(us > 0 for row in result["us"][kind] for us in row)
        assert [len(row) for row in result["us"][kind]] == [2, 2]
        for (whole, alone), ratio in zip(result["us"][kind], result["with_grpc"][kind], strict=True):
            assert ratio == pytest.approx((whole + settings.grpc_us) / (alone + settings.grpc_us))
