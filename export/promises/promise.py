"""One promise of the project, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from swiftrec.export.schema.record import MeanInterval


@dataclass(frozen=True, slots=True)
class Promise:
    """A value that must be at least, or at most, `bound`.

    Args:
        name: what is promised.
        bound: the bound.
        value: what was measured; None if it was not.
        interval: of the value, for the reader.
        at_most: whether the bound is an upper one.
        how: if it was not measured, why, or the command that measures it.
    """

    name: str
    bound: float
    value: float | None
    interval: tuple[float, float] | None = None
    at_most: bool = False
    how: str = ""

    @classmethod
    def of(cls, name: str, bound: float, figure: MeanInterval | None, how: str = "") -> Self:
        """A promise about a figure's mean."""
        return cls(name, bound, figure.mean, (figure.low, figure.high)) if figure else cls(name, bound, None, how=how)

    @property
    def is_met(self) -> bool:
        """Whether it was measured and keeps the bound."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        value = "-" if self.value is None else f"{self.value:.4g}"
        spread = f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else ""
        how = f": {self.how}" if self.how else ""
        verdict = "met" if self.is_met else "MISSED" if self.value is not None else f"not measured{how}"
        return f"{self.name}: {value}{spread}, promised {'<=' if self.at_most else '>='} {self.bound:.4g}: {verdict}"
