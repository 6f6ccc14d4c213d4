"""What a data set holds, in figures: for `doctor`, the manifest and the model card."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.order import in_words as order_in_words
from swiftrec.export.data.repeats import Repeats

NOTHING = "nothing"
REPEATED = "repeated events"
_REPEATS: Mapping[Repeats, str] = MappingProxyType(
    {
        "exclude": "--repeats exclude leaves them out, and nothing is recommended twice; --repeats allow keeps them",
        "allow": "--repeats allow keeps them, and items may be recommended again; --repeats exclude leaves them out",
    }
)
RATINGS = "ratings are read, and used by --loss mse only"


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median, 95th percentile and largest of something counted."""

    least: int
    median: int
    p95: int
    most: int

    @classmethod
    def of(cls, counts: ArrayLike) -> Spread:
        """Of counts [n]; all 0 if there are none."""
        array = np.asarray(counts)
        if not array.size:
            return cls(0, 0, 0, 0)
        return cls(*(int(q) for q in np.quantile(array, [0, 0.5, 0.95, 1], method="nearest")))

    def __str__(self) -> str:
        return f"{self.least} to {self.most}, median {self.median}, 95 % up to {self.p95}"


@dataclass(frozen=True, slots=True)
class Facts:
    """Figures of one data set; `skipped` counts, by kind of mistake, rows that were left out and cells emptied.

    `ratings` are the lowest and the highest one; None where there are none; `unrated` events have none where others
    have one. `times` are the first and the last one in words; `warnings` are sentences on what is suspicious and stops
    nothing, `caveats` on what makes figures uncertain. `repeated` counts the events whose user had an event with that
    item before, and `repeats` says what becomes of them. `order` says which event of a user comes first.
    """

    items: int
    attributes: dict[str, int]
    text_words: Spread
    users: int
    events: int
    times: str
    repeated: int
    repeats: Repeats
    ratings: tuple[float, float] | None
    unrated: int
    history_events: Spread
    usable_users: int
    used_items: int
    tied_share: float
    texts: int
    skipped: dict[str, int]
    warnings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    order: Order = BY_TIME

    def rows(self) -> dict[str, str]:
        """Name -> figure, in words."""
        attributes = ", ".join(f"{name} ({_values(count)})" for name, count in self.attributes.items())
        return {
            "items": f"{self.items:,}, of which {self.used_items:,} have interactions",
            "words of a text": str(self.text_words),
            "attributes": attributes or "none",
            "users": f"{self.users:,}, of which {self.usable_users:,} have enough events to train and test on",
            "events": f"{self.events:,}",
            "order": order_in_words(self.order),
            **({"times": self.times} if self.order == BY_TIME else {}),
            REPEATED: self._repeated(),
            **({"ratings": self._rated(*self.ratings)} if self.ratings else {}),
            "events of a user": str(self.history_events),
            **({"tied timestamps": self._tied()} if self.order == BY_TIME else {}),
            "texts of users": f"{self.texts:,}",
            "skipped": in_words(self.skipped),
        }

    def _rated(self, low: float, high: float) -> str:
        """The range of the ratings, and how many events have none."""
        verbs = "s have none and count" if self.unrated > 1 else " has none and counts"
        count = f"; {self.unrated:,} event{verbs} like the highest" if self.unrated else ""
        return f"{low:g} to {high:g}{count}"

    def _tied(self) -> str:
        return f"{self.tied_share:.1%} of the events (the order of the file decides)"

    def _repeated(self) -> str:
        """How many events repeat an earlier one of the user with the item, and what --repeats does with them."""
        found = f"{self.repeated:,} of the same user and item as an earlier one"
        return found if not self.repeated else f"{found} ({_REPEATS[self.repeats]})"


def in_words(skipped: Mapping[str, int]) -> str:
    """What was skipped, by kind of mistake."""
    return ", ".join(f"{count:,} {kind}" for kind, count in skipped.items()) or NOTHING


def _values(count: int) -> str:
    return "many values" if count < 0 else f"{count:,} value{'s' if count != 1 else ''}"


class Lengths:
    """Lengths of many texts, 4 bytes each."""

    def __init__(self) -> None:
        self._words = array("i")

    def add(self, text: str) -> None:
        """Count the words of one text."""
        self._words.append(text.count(" ") + 1)

    def spread(self) -> Spread:
        """Their spread."""
        return Spread.of(np.frombuffer(self._words, np.int32) if self._words else [])
