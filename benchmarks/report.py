"""Figures as people read them: median with the range over repeats, columns, and a last line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from swiftrec.benchmarks.machine import fingerprint

_WHOLE_FROM = 50  # larger figures are printed without decimals


def spread(values: Sequence[float], digits: int | None = None) -> str:
    """`median (least-most)`."""
    middle = float(np.median(values))
    if digits is None:
        digits = 0 if abs(middle) >= _WHOLE_FROM else 2
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: the first to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def as_json(value: Any) -> str:  # noqa: ANN401 (whatever JSON holds)
    """One line of JSON; a figure that is not there (NaN) is null."""
    return json.dumps(finite(value))


def finite(value: Any) -> Any:  # noqa: ANN401
    """The same with null for a figure that is not there: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def ended(tool: str, text: str, figures: Mapping[str, Any], reason: str) -> int:
    """`write`, marked partial if there is a reason why the tool ended early, which stderr has, too; the exit code."""
    write(f"{text}\nPARTIAL: {reason}" if reason else text, {**figures, "partial": reason})
    if reason:
        sys.stderr.write(f"benchmarks {tool}: partial: {reason}\n")
    return 1 if reason else 0


def write(text: str, figures: Mapping[str, Any]) -> None:
    """Write a text, the machine, and everything as JSON on the last line."""
    machine = fingerprint()
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    sys.stdout.write(f"{text}\nmachine: {facts}\n{as_json({'machine': machine, **figures})}\n")
    sys.stdout.flush()
