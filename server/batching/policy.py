"""Which jobs run together: a pure function of what waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_WINDOW = 128  # jobs that are looked at, oldest first


@dataclass(frozen=True, slots=True)
class Limits:
    """A batch holds at most `tokens` padded tokens and `jobs` jobs; at most `waiting` jobs may wait."""

    tokens: int = 2_048
    jobs: int = 64
    waiting: int = 4_096


def plan(lengths: Sequence[int], limits: Limits) -> list[int]:
    """Choose the positions of the jobs that run now; `lengths` are the waiting jobs' tokens, oldest first.

    The oldest job always goes, so that none starves; those nearest to it in length go along while the padded batch
    stays within the limits.
    """
    oldest = lengths[0]
    near = sorted(range(1, min(len(lengths), _WINDOW)), key=lambda n: (abs(lengths[n] - oldest), n))
    chosen, longest = [0], oldest
    for n in near:
        longest = max(longest, lengths[n])
        if len(chosen) == limits.jobs or longest * (len(chosen) + 1) > limits.tokens:
            break
        chosen.append(n)
    return chosen
