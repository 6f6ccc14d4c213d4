"""Whether the teacher finds items that training never saw: a shop gets new ones every day.

The catalogue's vectors are the teacher's, so one gate stands for every variant. Cold items are hard, and their figure
is low even where all is well; so only what even the upper end of the interval cannot save is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from export.errors import GateError
from export.evaluate.metrics import Figure
from export.quality import COLD_OF_IDS, MIN_COLD_CASES, QUALITY, Check


def check_cold(figures: Mapping[str, Figure], cases: int) -> Check | None:
    """The teacher's gate on *cold*; None where it cannot be measured.

    Args:
        figures: the teacher's NDCG@10 by task.
        cases: how many *cold* has.
    """
    ids, cold = figures.get("ids"), figures.get("cold")
    if ids is None or cold is None or not ids.mean or cases < MIN_COLD_CASES:
        return None
    return next(iter(QUALITY.check_teacher({COLD_OF_IDS: cold.high / ids.mean})), None)


def shortfall(figures: Mapping[str, Figure], cases: int) -> str:
    """By how much the teacher fails the gate, in words; empty if it does not."""
    check = check_cold(figures, cases)
    if check is None or check.has_passed:
        return ""
    return (
        f"NDCG@10 on cold (items that training never saw, {cases} cases) is {figures['cold']}, on ids "
        f"{figures['ids'].mean:.4f}: {check}"
    )


def require_cold(figures: Mapping[str, Figure], cases: int, *, allow_lossy: bool) -> None:
    """Stop the export before the variants are evaluated, unless what is lost may be shipped.

    Raises:
        GateError: says by how much the teacher fails, and what to try.
    """
    words = shortfall(figures, cases)
    if words and not allow_lossy:
        raise GateError(
            f"teacher: {words}. Try --trunk frozen, fewer --passes, or a --pull above 0; --allow-lossy ships it "
            "all the same"
        )
