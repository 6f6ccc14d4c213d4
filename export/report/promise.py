"""One promised figure beside what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass

from swiftrec.export.evaluate.metrics import Figure


@dataclass(frozen=True, slots=True)
class Target:
    """One promise: `value` (None: not measured, `how` says why or what measures it) at least, or at most, `bound`.

    `interval` is for the reader.
    """

    name: str
    bound: float
    value: float | None
    interval: tuple[float, float] | None = None
    at_most: bool = False
    how: str = ""

    @classmethod
    def of(cls, name: str, bound: float, found: Figure | None, how: str = "") -> Target:
        """A promise of a figure's mean."""
        return cls(name, bound, found.mean, (found.low, found.high)) if found else cls(name, bound, None, how=how)

    @property
    def is_met(self) -> bool:
        """Whether it was measured and keeps the bound."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        found = "-" if self.value is None else f"{self.value:.4g}"
        spread = f" [{self.interval[0]:.3f}, {self.interval[1]:.3f}]" if self.interval else ""
        how = f": {self.how}" if self.how else ""
        verdict = "met" if self.is_met else "MISSED" if self.value is not None else f"not measured{how}"
        return f"{self.name}: {found}{spread}, wanted {'<=' if self.at_most else '>='} {self.bound:.4g}: {verdict}"
