"""A goal of the project: a bound, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_GROUPED_FROM = 10_000  # larger values are printed as whole numbers


@dataclass(frozen=True, slots=True)
class Promise:
    """A value that must be at least, or at most, `bound`. With several values their median is judged.

    Args:
        name: what is promised.
        bound: the bound.
        values: what was measured, one value for each round; empty if it was not.
        source: folder of the result.
        at_most: whether the bound is an upper one.
        why: if it was not measured, or does not count: the reason, or the command that measures it.
        interval: of the value, for the reader; if not given, the lowest and the highest of several values.
    """

    name: str
    bound: float
    values: Sequence[float]
    source: str = ""
    at_most: bool = False
    why: str = ""
    interval: tuple[float, float] | None = None

    @property
    def value(self) -> float | None:
        """The median; None if it was not measured."""
        return float(np.median(self.values)) if len(self.values) else None

    @property
    def is_met(self) -> bool:
        """Whether it was measured and keeps the bound; NaN keeps none."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    @property
    def verdict(self) -> str:
        """Met, MISSED, or not measured and why."""
        if self.value is None:
            return f"not measured{f': {self.why}' if self.why else ''}"
        return "met" if self.is_met else "MISSED"

    @property
    def limit(self) -> str:
        """The bound with its direction."""
        return f"{'<=' if self.at_most else '>='} {_text(self.bound)}"

    @property
    def measured(self) -> str:
        """The value and its interval."""
        if self.value is None:
            return "-"
        interval = self.interval or ((min(self.values), max(self.values)) if len(self.values) > 1 else None)
        return _text(self.value) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")

    def as_json(self) -> dict[str, Any]:
        """The fields and the verdict, without the interval: it is for the reader."""
        return {name: value for name, value in asdict(self).items() if name != "interval"} | {"verdict": self.verdict}

    def __str__(self) -> str:
        return f"{self.name}: {self.measured}, promised {self.limit}: {self.verdict}"


def missed(promises: Sequence[Promise]) -> list[str]:
    """A sentence for each promise that is not met."""
    return [str(promise) for promise in promises if not promise.is_met]


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= _GROUPED_FROM else f"{value:.4g}"
