"""The gates of answers: every threshold that a variant must keep, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Check:
    """One gate as it was measured; passed if `value` is at least `threshold`."""

    gate: str
    value: float
    threshold: float

    @property
    def has_passed(self) -> bool:
        """Whether the value is at least the threshold."""
        return self.value >= self.threshold

    def __str__(self) -> str:
        short = f"{self.threshold - self.value:.3f} short of {self.threshold:.3f}"
        return f"{self.gate} {self.value:.3f}" + ("" if self.has_passed else f", {short}")


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality gates: what a variant that is shipped must keep, and what the default must keep beyond that.

    Args:
        shipped: gate -> least value; a task's gate is the variant's NDCG@10 as a share of the teacher's, `overlap` the
            share of the teacher's top ten on text, `cosine` (only where there are no interactions to measure NDCG by)
            that of the variant's vectors to the teacher's.
        default: the same for a device's default.
    """

    shipped: Mapping[str, float]
    default: Mapping[str, float]

    def check(self, values: Mapping[str, float], *, as_default: bool = False) -> list[Check]:
        """Every gate for which there is a value."""
        wanted = self.default if as_default else self.shipped
        return [Check(gate, values[gate], least) for gate, least in wanted.items() if gate in values]


# Over 943 users a share on noisy or cold has an interval of about 0.1 to either side: stricter gates would toss a coin.
QUALITY = Quality(
    shipped=MappingProxyType(
        {"text": 0.90, "query": 0.90, "noisy": 0.90, "cold": 0.75, "overlap": 0.50, "cosine": 0.90}
    ),
    default=MappingProxyType(
        {"text": 0.98, "query": 0.98, "noisy": 0.92, "cold": 0.80, "overlap": 0.75, "cosine": 0.95}
    ),
)
