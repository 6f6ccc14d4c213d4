"""The order of a user's interactions: by their times, by the rows of the file, or none (`--order`).

Without order each user's interactions are shuffled once, by a fixed seed, before anything else is done
(`Dataset.without_order`): the ones that validate and test are then drawn at random. Training shuffles what it reads
again in each epoch.
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
    "file": "that of the rows (--order file); timestamps are not read",
    "none": "without order (--order none); each user's validation and test items are drawn at random",
}


def in_words(order: Order) -> str:
    """What decides which of a user's interactions comes first."""
    return _IN_WORDS[order]
