"""Figures as text: median with the range over repeats, columns, and a last line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from swiftrec.benchmarks.environment import fingerprint, load_warning
from swiftrec.promise import Promise, missed

_WHOLE_FROM = 50  # larger figures are printed without decimals
_EMPTY = {"", "-"}


class Table(NamedTuple):
    """Names of the columns, and rows of cells; the first column names the row."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def without(self, *names: str) -> Self:
        """The same without these columns, and without those in which no row has a figure."""
        kept = [
            n
            for n, name in enumerate(self.head)
            if name not in names and any(row[n] not in _EMPTY for row in self.rows)
        ]
        return self._replace(head=[self.head[n] for n in kept], rows=[[row[n] for n in kept] for row in self.rows])

    def __str__(self) -> str:
        return table(self.head, self.rows)


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """`median (minimum-maximum)`."""
    median = float(np.median(values))
    if digits is None:
        digits = 0 if abs(median) >= _WHOLE_FROM else 2
    return f"{median:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first aligned to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def as_json(value: Any) -> str:  # noqa: ANN401 (any value of JSON)
    """One line of JSON, with null for NaN."""
    return json.dumps(finite(value))


def finite(value: Any) -> Any:  # noqa: ANN401
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return [finite(element) for element in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def finish(tool: str, text: str, figures: Mapping[str, Any], reason: str) -> int:
    """Print the result; if the tool ended early, mark it partial with the reason, on stderr as well.

    Returns:
        The exit code: 1 if the result is partial.
    """
    print_result(f"{text}\nPARTIAL: {reason}" if reason else text, {**figures, "partial": reason})
    if reason:
        sys.stderr.write(f"swiftrec bench {tool}: partial: {reason}\n")
    return 1 if reason else 0


def finish_judged(tool: str, text: str, figures: Mapping[str, Any], goals: Sequence[Promise], reason: str = "") -> int:
    """Print the result as `finish` does, with each goal that is missed.

    Returns:
        The exit code: 1 if a goal is missed or the result is partial.
    """
    lines = missed(goals)
    verdict = "\n".join(lines) or "every goal is met"
    return finish(tool, f"{text}\n{verdict}", {**figures, "missed": lines}, reason) or int(bool(lines))


def print_result(text: str, figures: Mapping[str, Any]) -> None:
    """Print a text, the machine, a warning if it was busy, and everything as JSON on the last line."""
    machine = fingerprint()
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    warning = f"WARNING: {line}\n" if (line := load_warning(machine)) else ""
    sys.stdout.write(f"{text}\nmachine: {facts}\n{warning}{as_json({'machine': machine, **figures})}\n")
    sys.stdout.flush()
