"""Chooses among results: the newest that fits. A newer one that does not is named on stderr with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from swiftrec.benchmarks.suite import store
from swiftrec.benchmarks.suite.result import Result

Found = tuple[Path, Result]
Reason = Callable[[Result], str]
"""Why a result is not taken, in words; empty if it can be."""


def smoke(result: Result) -> str:
    """That it is a smoke run."""
    return "a smoke run, whose figures say nothing" if result.settings.get("size") == "smoke" else ""


def no_full_run(result: Result) -> str:
    """Why the figures of a run of `make bench` do not count."""
    if reason := smoke(result):
        return reason
    if result.failures:
        return f"not valid: {result.failures[0]}"
    return f"not whole: {result.reason}" if result.is_partial else ""


def partial_catalogue(result: Result) -> str:
    """Why its catalogue figures are not whole: a size ended early."""
    reasons = [row.get("partial", "") for row in result.catalogue]
    return f"its catalogue is partial: {reasons[0]}" if reasons and all(reasons) else ""


def partial_teacher(result: Result) -> str:
    """Why its comparison with the teacher is not whole: a server ended early."""
    reason = result.teacher.get("partial", "")
    return f"its teacher comparison is partial: {reason}" if reason else ""


def newest_run(results: Sequence[Found], said: set[str]) -> Found | None:
    """The newest full run of `make bench`; the newest of any kind if there is none; None without a run.

    Args:
        results: newest first.
        said: what stderr has already; each line is written once.
    """
    runs = [found for found in results if found[1].workloads]
    reasons = [no_full_run(result) for _, result in runs]
    return _chosen(runs, reasons, said) if "" in reasons else next(iter(runs), None)


class Selection:
    """Results of one machine and one bundle, newest first.

    Args:
        results: all results, newest first.
        like: has the machine and the bundle that a result must have.
        said: what stderr has already; each line is written once.
    """

    def __init__(self, results: Sequence[Found], like: Result, said: set[str] | None = None) -> None:
        self._results, self._like = results, like
        self._said: set[str] = set() if said is None else said

    def newest(
        self, has: Callable[[Result], bool], *, unfit: Reason | None = None, flaw: Reason | None = None
    ) -> Found | None:
        """The newest result that `has` what is wanted, and fits.

        Args:
            has: whether a result has what is wanted at all; one that does not is not named.
            unfit: a reason never to take a result.
            flaw: a reason to take it only if there is no other.
        """
        having = [found for found in self._results if has(found[1])]
        reasons = [self.differs(result) or (unfit(result) if unfit else "") for _, result in having]
        flaws = [reason or (flaw(result) if flaw else "") for reason, (_, result) in zip(reasons, having, strict=True)]
        return _chosen(having, flaws if "" in flaws else reasons, self._said)

    def differs(self, result: Result) -> str:
        """Why the figures of this result do not belong beside the others."""
        cpu, ours = result.machine["cpu"], self._like.machine["cpu"]
        if cpu != ours:
            return f"measured on {cpu}, not on {ours}"
        if result.bundle_id != self._like.bundle_id:
            return f"measured with {result.bundle_id}, not with {self._like.bundle_id}"
        return ""


def _chosen(results: Sequence[Found], reasons: Sequence[str], said: set[str]) -> Found | None:
    """The first without a reason against it; names those before it, each once."""
    number = reasons.index("") if "" in reasons else len(reasons)
    for (folder, _), reason in zip(results[:number], reasons[:number], strict=True):
        line = f"{folder / store.RESULT}: {reason}"
        if line not in said:
            store.say_left_out(line)
            said.add(line)
    return results[number] if number < len(results) else None
