"""The order of a user's interactions: by their times, by the rows of the file, or none (`--order`).

Without order, each user's interactions are shuffled once with a fixed seed before the split (`Dataset.without_order`),
so those for validation and test are drawn at random. Training shuffles its histories again in each epoch.
"""

from __future__ import annotations

from typing import Literal

Order = Literal["time", "file", "none"]

BY_TIME: Order = "time"
BY_ROW: Order = "file"
UNORDERED: Order = "none"
OTHER_ORDERS = "--order none trains without order, --order file takes the order of the rows"

_IN_WORDS: dict[Order, str] = {
    "time": "by time",
    "file": "by the rows of the file (--order file); timestamps are not read",
    "none": "without order (--order none); each user's validation and test items are drawn at random",
}


def in_words(order: Order) -> str:
    """What decides which interaction of a user is first."""
    return _IN_WORDS[order]
