"""Groups of users, so that quality can be reported for each group and not only on average."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_NUMBERS = 8  # in a column with more distinct numbers, groups are quarters of the users


def user_groups(
    rows: Iterable[dict[str, Any]], users: Sequence[str], columns: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """Column -> group for each of `users`, in their order; a user without a row is in no group.

    Args:
        rows: rows of a table with user_id and attribute columns.
        users: ids as in user_id.
        columns: columns to use; all but user_id if not given.
    """
    by_id = {str(row["user_id"]): row for row in rows if row.get("user_id") is not None}
    known = [by_id.get(user, {}) for user in users]
    names = columns or list(dict.fromkeys(name for row in known for name in row if name != "user_id"))
    groups = {name: _group_names([row.get(name) for row in known]) for name in names}
    return [{name: group for name in names if (group := groups[name][n])} for n in range(len(users))]


def _group_names(cells: list[Any]) -> list[str]:
    """A group for each cell, empty if there is none; many distinct numbers become quarters."""
    texts = ["" if cell is None else str(cell).strip() for cell in cells]
    try:
        numbers = np.array([float(text) for text in texts if text])
    except ValueError:
        return texts
    if len(set(numbers.tolist())) <= _MAX_NUMBERS:
        return texts
    edges = np.unique(np.quantile(numbers, [0.25, 0.5, 0.75], method="lower"))
    quarters = np.searchsorted(edges, numbers)
    names = iter(_quarter_names(numbers, quarters))
    return [next(names) if text else "" for text in texts]


def quarters_of(numbers: Sequence[int]) -> list[str]:
    """The quarter of each number, named by its smallest and largest number: "19 to 42"."""
    values = np.array(numbers, dtype=np.float64)
    edges = np.unique(np.quantile(values, [0.25, 0.5, 0.75], method="lower")) if len(values) else values
    return _quarter_names(values, np.searchsorted(edges, values))


def _quarter_names(numbers: NDArray[np.float64], quarters: NDArray[np.int64]) -> list[str]:
    names = {q: f"{numbers[quarters == q].min():g} to {numbers[quarters == q].max():g}" for q in np.unique(quarters)}
    return [names[q] for q in quarters.tolist()]
