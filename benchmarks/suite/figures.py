"""The figures by which two runs are compared, each estimated from the rounds and the raw rows of its run.

The speed of a machine drifts, so times are multiples of the floor of the same round, and rates are those of a machine
on which the bare server costs one second. The floor runs the server's models: what makes both slower shows in multiples
of the bare server, which runs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.statistics import MIN_P99_RESPONSES, OK, SHARE_70, RequestRows
from swiftrec.benchmarks.suite.bootstrap import DRAWS_WITHIN, Bootstrap, Estimate, sliced
from swiftrec.benchmarks.suite.curve import by_share, knee
from swiftrec.benchmarks.suite.result import Point
from swiftrec.benchmarks.suite.results import MeasuredRun
from swiftrec.benchmarks.suite.rows import BATCHES, MEMORY, START_UP, Figure, cost_ratios, run_figure
from swiftrec.server.arrays import Floats

_FEWEST_ROUNDS = 2
_LEAST_RATE = 0.01  # of the largest round: a round without a response has no logarithm
_PERCENTILES: dict[str, Callable[[Floats], float]] = {
    "p50": lambda values: float(np.percentile(values, 50)),
    "p99": lambda values: float(np.percentile(values, 99)),
}


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of both runs.

    Attributes:
        name: for the table.
        kind: figures of one kind vary alike between rounds.
        base: estimate of the earlier run; None if it has none.
        head: estimate of the later run; None if it has none.
        is_better_high: whether a lower figure is worse.
        parts: kinds of the figures of which it is the mean; empty if it is no mean.
    """

    name: str
    kind: str
    base: Estimate | None
    head: Estimate | None
    is_better_high: bool = False
    parts: tuple[str, ...] = ()


class Figures:
    """Every figure by which two runs are compared.

    Args:
        base: the earlier run.
        head: the later one.
        bootstrap: estimates the figures.
    """

    def __init__(self, base: MeasuredRun, head: MeasuredRun, bootstrap: Bootstrap) -> None:
        self._runs, self._bootstrap = (base, head), bootstrap

    def all(self) -> list[ComparedFigure]:
        """All figures in the order of the table, also those that neither run has."""
        made = [figure for name in self._workloads() for figure in self._workload_figures(name)]
        made += [figure for percentile in _PERCENTILES for figure in self._mean_figures(percentile)]
        made.append(
            self._figure("start-up s", "start-up", lambda run: self._from_figure(run_figure(run.result, START_UP)))
        )
        made += [
            self._figure("knee x echo", "knee", self._knee, is_better_high=True),
            self._figure("goodput beyond the capacity x echo", "goodput", self._goodput, is_better_high=True),
            self._figure("batches of 32 x echo", "rate", _batches, is_better_high=True),
            self._figure("memory MB", MEMORY, lambda run: _single(run_figure(run.result, MEMORY))),
        ]
        return made

    def _figure(
        self, name: str, kind: str, estimate: Callable[[MeasuredRun], Estimate | None], *, is_better_high: bool = False
    ) -> ComparedFigure:
        base, head = (estimate(run) for run in self._runs)
        return ComparedFigure(name, kind, base, head, is_better_high)

    def _workloads(self) -> list[str]:
        return list(dict.fromkeys(name for run in self._runs for name in run.result.workloads))

    def _workload_figures(self, name: str) -> Iterator[ComparedFigure]:
        runs = [run.result.workloads.get(name) for run in self._runs]
        base, head = ({ratio.name: ratio for ratio in cost_ratios(workload)} if workload else {} for workload in runs)
        for kind, ratio in (base | head).items():
            values = [self._from_figure(ratios.get(kind)) for ratios in (base, head)]
            yield ComparedFigure(f"{name}: {kind}", kind, values[0], values[1], ratio.is_better_high)
        rate = partial(self._throughput, name)
        yield self._figure(f"{name}: answers/s at saturation x echo", "rate", rate, is_better_high=True)
        for share in self._shares(name):
            for percentile in _PERCENTILES:
                kind = _latency_kind(percentile, share)
                yield self._figure(f"{name}: {kind}", kind, partial(self._latency, name, share, percentile))

    def _shares(self, name: str) -> list[float]:
        """The shares of the capacity at which latencies are compared."""
        return sorted(share for share in set().union(*(run.shares(name) for run in self._runs)) if share <= SHARE_70)

    def _mean_figures(self, percentile: str) -> Iterator[ComparedFigure]:
        """The mean of a percentile over all workloads and loads: it shows what makes all of them slower.

        It varies much less than each of them. Only loads of both runs with enough responses in each round count.
        """
        loads = [(name, share) for name in self._workloads() for share in self._shares(name)]
        loads = [
            (name, share)
            for name, share in loads
            if not self._is_pooled(name, share)
            and len({len(self._windows(run, name, share)) for run in self._runs} - {0}) == 1
        ]
        rounds = {len(self._windows(run, *load)) for run in self._runs for load in loads}
        if len(loads) > 1 and len(rounds) == 1 and min(rounds) >= _FEWEST_ROUNDS:
            base, head = (self._mean(run, loads, percentile) for run in self._runs)
            kinds = tuple(_latency_kind(percentile, share) for _, share in loads)
            yield ComparedFigure(f"all workloads and loads: {percentile} / floor", "mean", base, head, parts=kinds)

    def _from_figure(self, figure: Figure | None) -> Estimate | None:
        """An estimate from one value a round; None unless all are known."""
        values = figure.values if figure else ()
        is_whole = len(values) >= _FEWEST_ROUNDS and all(np.isfinite(value) and value > 0 for value in values)
        return self._bootstrap.from_rounds(values) if is_whole else None

    def _windows(self, run: MeasuredRun, name: str, share: float) -> list[list[Floats]]:
        """Of each round of an open loop its latencies as multiples of the floor, by slices."""
        floors = run.by_round(name, "floor_us")
        windows = run.windows(name, "open", share)
        return [_latencies(rows, floors[point.round]) for rows, point in windows if point.round in floors]

    def _is_pooled(self, name: str, share: float) -> bool:
        """Whether a round of one of the runs has too few responses for a percentile."""
        return any(_has_few(rows) for run in self._runs for rows, _ in run.windows(name, "open", share))

    def _latency(self, name: str, share: float, percentile: str, run: MeasuredRun) -> Estimate | None:
        """From the rows of each round; from all rounds together if one has too few for a percentile."""
        windows = self._windows(run, name, share)
        if len(windows) < _FEWEST_ROUNDS or sum(len(part) for slices in windows for part in slices) < MIN_P99_RESPONSES:
            return None
        figure = _PERCENTILES[percentile]
        if self._is_pooled(name, share):
            return self._bootstrap.from_all(windows, figure)
        within = [self._bootstrap.resample_slices(slices, figure) for slices in windows]
        return self._bootstrap.from_rounds([figure(np.concatenate(slices)) for slices in windows], within)

    def _mean(self, run: MeasuredRun, loads: Sequence[tuple[str, float]], percentile: str) -> Estimate:
        """The geometric mean over loads, round by round."""
        figure = _PERCENTILES[percentile]
        by_round = list(zip(*(self._windows(run, *load) for load in loads), strict=True))
        values = [_mean([np.array([figure(np.concatenate(slices))]) for slices in result]) for result in by_round]
        within = [_mean([self._bootstrap.resample_slices(slices, figure) for slices in result]) for result in by_round]
        return self._bootstrap.from_rounds([float(value[0]) for value in values], within)

    def _throughput(self, name: str, run: MeasuredRun) -> Estimate | None:
        windows = run.windows(name, "closed")
        return self._rate(
            [(point.throughput, point, _entries(rows, rows.done, rows.code == OK)) for rows, point in windows],
            run,
            name,
        )

    def _goodput(self, run: MeasuredRun) -> Estimate | None:
        """The goodput of the main workload when it is offered more than the capacity."""
        name, slo_ms = run.result.main, run.result.settings.get("slo_ms", np.inf)
        share = max(run.shares(name), default=0.0)
        windows = run.windows(name, "open", share) if share > 1.0 else []
        return self._rate(
            [(point.goodput, point, _entries(rows, rows.intended, _within(rows, slo_ms))) for rows, point in windows],
            run,
            name,
        )

    def _rate(
        self, windows: Sequence[tuple[float, Point, list[Floats]]], run: MeasuredRun, name: str
    ) -> Estimate | None:
        """Responses per second of the windows, each times the cost of the bare server in its round."""
        echos = run.by_round(name, "echo_us")
        kept = [(rate, 1e-6 * echos[point.round], parts) for rate, point, parts in windows if point.round in echos]
        rates = np.array([rate * echo_s for rate, echo_s, _ in kept])
        if len(kept) < _FEWEST_ROUNDS or not rates.max() > 0:
            return None
        rates = np.maximum(rates, _LEAST_RATE * rates.max())
        within = [rate * self._shares_of_total(parts) for rate, (_, _, parts) in zip(rates, kept, strict=True)]
        return self._bootstrap.from_rounds(rates.tolist(), within)

    def _shares_of_total(self, slices: list[Floats]) -> Floats:
        """The number of responses in resampled slices over that of all."""
        total = sum(float(part.sum()) for part in slices)
        if not total:
            return np.ones(DRAWS_WITHIN)
        return np.maximum(
            self._bootstrap.resample_slices(slices, lambda values: float(values.sum())) / total, _LEAST_RATE
        )

    def _knee(self, run: MeasuredRun) -> Estimate | None:
        """The knee of the main workload's curve, read from the medians over the rounds: no mean of their knees."""
        main = run.result.main
        echos = run.by_round(main, "echo_us")
        points = [point for point in run.result.points if (point.workload, point.loop) == (main, "open")]
        scaled = [[_scaled(point, 1e-6 * echo) for point in points if point.round == n] for n, echo in echos.items()]
        by_round = [result for result in scaled if result]

        def read(rounds: Sequence[int]) -> float:
            return knee(by_share([point for n in rounds for point in by_round[n]], main))

        if len(by_round) < _FEWEST_ROUNDS or not read(range(len(by_round))):
            return None
        lowest = min(point.rate for result in by_round for point in result)
        return self._bootstrap.from_any(len(by_round), lambda rounds: max(lowest, read(rounds)))


def _batches(run: MeasuredRun) -> Estimate | None:
    main = run.result.workloads.get(run.result.main)
    return _single(run_figure(run.result, BATCHES), 1e-6 * main.echo_us.median) if main else None


def _single(figure: Figure | None, scale: float = 1.0) -> Estimate | None:
    """The estimate of a figure that a run measures once."""
    value = scale * figure.values[0] if figure else 0.0
    return Estimate(float(np.log(value)), 0.0, 1) if np.isfinite(value) and value > 0 else None


def _has_few(rows: RequestRows) -> bool:
    return int((rows.code == OK).sum()) < MIN_P99_RESPONSES


def _latencies(rows: RequestRows, floor_us: float) -> list[Floats]:
    """Latencies of successful requests as multiples of the floor, by slices of the window; no slice is empty."""
    good = rows.only(rows.code == OK)
    return [part for part in sliced(1e3 * good.latency_ms() / floor_us, good.intended) if len(part)]


def _entries(rows: RequestRows, moments: Floats, keep: NDArray[np.bool_]) -> list[Floats]:
    """How many recommendations each kept row has, 0 for the others, by slices of the window."""
    return sliced(np.where(keep, rows.entries, 0).astype(np.float64), moments)


def _within(rows: RequestRows, slo_ms: float) -> NDArray[np.bool_]:
    """Which rows are successful and within the SLO."""
    is_within: NDArray[np.bool_] = (rows.code == OK) & (1e3 * (rows.done - rows.intended) <= slo_ms)
    return is_within


def _latency_kind(percentile: str, share: float) -> str:
    return f"{percentile} at {100 * share:.0f} % / floor"


def _mean(values: Sequence[Floats]) -> Floats:
    """Geometric, of arrays of the same shape."""
    mean: Floats = np.exp(np.mean(np.log(np.stack(values)), axis=0))
    return mean


def _scaled(point: Point, scale: float) -> Point:
    return point.model_copy(update={"rate": scale * point.rate, "throughput": scale * point.throughput})
