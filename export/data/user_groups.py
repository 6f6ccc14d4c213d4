"""The groups that users belong to, so that quality can be told for each of them and not only on average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_NUMBERS = 8  # more different numbers in a column become quarters of the users


def user_groups(
    rows: Iterable[dict[str, Any]], users: Sequence[str], columns: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """Column -> group for each of `users`, in their order; a user without a row is in no group.

    Args:
        rows: of a table with user_id and attribute columns.
        users: ids as they stand in user_id.
        columns: those that count; all but user_id if not given.
    """
    by_id = {str(row["user_id"]): row for row in rows if row.get("user_id") is not None}
    known = [by_id.get(user, {}) for user in users]
    wanted = columns or list(dict.fromkeys(name for row in known for name in row if name != "user_id"))
    named = {name: _names([row.get(name) for row in known]) for name in wanted}
    return [{name: group for name in wanted if (group := named[name][n])} for n in range(len(users))]


def _names(cells: list[Any]) -> list[str]:
    """A group for each cell, empty where there is none; numbers of many values become quarters."""
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    try:
        numbers = np.array([float(text) for text in texts if text])
    except ValueError:
        return texts
    if len(set(numbers.tolist())) <= _MAX_NUMBERS:
        return texts
    edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="lower"))
    quarters = np.searchsorted(edges, numbers)
    found = iter(_named(numbers, quarters))
    return [next(found) if text else "" for text in texts]


def quarters_of(numbers: Sequence[int]) -> list[str]:
    """The quarter that each number is in, by its least and its largest number: "19 to 42"."""
    values = np.array(numbers, dtype=np.float64)
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower")) if len(values) else values
    return _named(values, np.searchsorted(edges, values))


def _named(numbers: NDArray[np.float64], quarters: NDArray[np.int64]) -> list[str]:
    names = {q: f"{numbers[quarters == q].min():g} to {numbers[quarters == q].max():g}" for q in np.unique(quarters)}
    return [names[q] for q in quarters.tolist()]
