"""The gates of answers: every threshold that a variant must keep, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

EVERY_TASK = "every task"
COLD_GATE = "cold minus the frozen encoder"
MIN_COLD_CASES = 100  # among fewer, a few cases decide: none is refused by them
_NO_TASKS = ("overlap", "cosine")


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
        shipped: gate -> least value. A task's gate is the variant's NDCG@10 as a share of the teacher's on the same
            task; `EVERY_TASK` stands for each that is not named. `overlap` is the share of the teacher's top ten on
            text, `cosine` (only where there are no interactions to measure NDCG by) that of the variant's vectors to
            the teacher's.
        default: the same for a device's default.
    """

    shipped: Mapping[str, float]
    default: Mapping[str, float]

    def check(self, values: Mapping[str, float], *, as_default: bool = False) -> list[Check]:
        """Every gate of an encoder for which there is a value."""
        return _checks(self.default if as_default else self.shipped, values)


def is_task(gate: str) -> bool:
    """Whether a gate is that of a task."""
    return gate not in _NO_TASKS


def least_of(wanted: Mapping[str, float], gate: str) -> float | None:
    """The least value of a gate; None if there is no such gate."""
    return wanted.get(gate, wanted.get(EVERY_TASK) if is_task(gate) else None)


def _checks(wanted: Mapping[str, float], values: Mapping[str, float]) -> list[Check]:
    found = ((gate, value, least_of(wanted, gate)) for gate, value in values.items())
    return [Check(gate, value, least) for gate, value, least in found if least is not None]


QUALITY = Quality(
    shipped=MappingProxyType({EVERY_TASK: 0.90, "overlap": 0.50, "cosine": 0.90}),
    default=MappingProxyType({EVERY_TASK: 0.98, "overlap": 0.75, "cosine": 0.95}),
)
