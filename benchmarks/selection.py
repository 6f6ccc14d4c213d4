"""Selects results: the newest that fits. Newer ones that do not fit are named on stderr with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from swiftrec.benchmarks.result_files import ToolResult, load_all, report_ignored

R = TypeVar("R", bound=ToolResult)
Stored = tuple[Path, R]
"""The folder of a result, and the result."""


def smoke(result: ToolResult) -> str:
    """A reason if it is a smoke run."""
    return "a smoke run, whose figures mean nothing" if result.settings.get("size") == "smoke" else ""


def partial(result: ToolResult) -> str:
    """A reason if the result is partial."""
    return f"partial: {result.reason}" if result.is_partial else ""


class Selection:
    """Results of one machine and one bundle.

    Args:
        results: folder of results.
        like: has the machine and the bundle that a result must have.
        reported: lines that are on stderr already; each is written once.
    """

    def __init__(self, results: Path, like: ToolResult, reported: set[str] | None = None) -> None:
        self._results, self._like = results, like
        self._reported: set[str] = set() if reported is None else reported

    def all(self, kind: type[R]) -> list[Stored[R]]:
        """All results of this machine and bundle, newest first."""
        return [(folder, result) for folder, result in load_all(self._results, kind) if not self._differs(result)]

    def newest(
        self,
        kind: type[R],
        has: Callable[[R], bool] = lambda _: True,
        *,
        unfit: Callable[[R], str] = lambda _: "",
        flaw: Callable[[R], str] = lambda _: "",
    ) -> Stored[R] | None:
        """The newest result that fits.

        Args:
            kind: of the result.
            has: whether a result has what is needed; one that has not is not named.
            unfit: a reason never to use a result; empty if there is none.
            flaw: a reason to use it only if there is no other.
        """
        stored = [(folder, result) for folder, result in load_all(self._results, kind) if has(result)]
        reasons = [self._differs(result) or unfit(result) for _, result in stored]
        flaws = [reason or flaw(result) for reason, (_, result) in zip(reasons, stored, strict=True)]
        return choose(stored, flaws if "" in flaws else reasons, self._reported)

    def _differs(self, result: ToolResult) -> str:
        """Why this result cannot be combined with the others."""
        cpu, expected = result.machine["cpu"], self._like.machine["cpu"]
        if cpu != expected:
            return f"measured on {cpu}, not on {expected}"
        if result.bundle_id != self._like.bundle_id:
            return f"measured with {result.bundle_id}, not with {self._like.bundle_id}"
        return ""


def choose(stored: Sequence[Stored[R]], reasons: Sequence[str], reported: set[str]) -> Stored[R] | None:
    """The first result without a reason against it; stderr names those before it, each once."""
    number = reasons.index("") if "" in reasons else len(reasons)
    for (folder, result), reason in zip(stored[:number], reasons[:number], strict=True):
        line = f"{folder / result.file}: {reason}"
        if line not in reported:
            report_ignored(line)
            reported.add(line)
    return stored[number] if number < len(stored) else None
