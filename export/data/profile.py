"""Figures of a data set for `doctor`, the manifest and the model card, and what makes its quality figures uncertain."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.order import in_words as order_in_words
from swiftrec.export.data.repeats import Repeats
from swiftrec.export.data.split import MIN_INTERACTIONS

NOTHING = "nothing"
REPEATED = "repeated interactions"
RATINGS = "ratings are read, and used by --loss mse only"
_REPEATS: Mapping[Repeats, str] = MappingProxyType(
    {
        "exclude": "--repeats exclude leaves them out, and nothing is recommended twice; --repeats allow keeps them",
        "allow": "--repeats allow keeps them, and items may be recommended again; --repeats exclude leaves them out",
    }
)
_NDCG_DEVIATION = 0.25  # of one user's NDCG@10, measured on MovieLens-100K; the mean there is .1
_NORMAL_95 = 1.96
_ENOUGH_USERS = 500  # with these the interval is +-.02 or less
_MIN_TRAINED = 2  # an interaction and the next one
_MOSTLY_TIED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest, median, 95th percentile and largest of some counts."""

    lowest: int
    median: int
    p95: int
    highest: int

    @classmethod
    def of(cls, counts: ArrayLike) -> Spread:
        """Of counts [n]; all 0 if there are none."""
        array = np.asarray(counts)
        if not array.size:
            return cls(0, 0, 0, 0)
        return cls(*(int(q) for q in np.quantile(array, [0, 0.5, 0.95, 1], method="nearest")))

    def __str__(self) -> str:
        return f"{self.lowest} to {self.highest}, median {self.median}, 95 % up to {self.p95}"


@dataclass(frozen=True, slots=True)
class Profile:
    """Figures of one data set.

    Args:
        items: number of items.
        attributes: attribute -> number of values; -1 for too many to count.
        text_words: words of the items' texts.
        users: number of users.
        interactions: number of interactions.
        times: the first and the last time, as a sentence.
        repeated: number of interactions whose user has an earlier one with the item.
        repeats: whether these count.
        ratings: the lowest and the highest rating, or None.
        unrated: interactions without a rating if others have one.
        history_lengths: interactions of each user.
        usable_users: users with enough interactions to train and test on.
        used_items: items with interactions.
        tied_share: share of interactions with the same user and time as another one.
        texts: number of user texts.
        skipped: kind of issue -> number of rows that were left out, or of cells that were emptied.
        warnings: sentences on what is suspicious.
        caveats: sentences on what makes quality figures uncertain.
        order: what decides which interaction of a user is first.
    """

    items: int
    attributes: dict[str, int]
    text_words: Spread
    users: int
    interactions: int
    times: str
    repeated: int
    repeats: Repeats
    ratings: tuple[float, float] | None
    unrated: int
    history_lengths: Spread
    usable_users: int
    used_items: int
    tied_share: float
    texts: int
    skipped: dict[str, int]
    warnings: tuple[str, ...] = ()
    caveats: tuple[str, ...] = ()
    order: Order = BY_TIME

    def rows(self) -> dict[str, str]:
        """Name -> figure, as shown in tables."""
        attributes = ", ".join(f"{name} ({_values(count)})" for name, count in self.attributes.items())
        return {
            "items": f"{self.items:,}, of which {self.used_items:,} have interactions",
            "words of a text": str(self.text_words),
            "attributes": attributes or "none",
            "users": f"{self.users:,}, of which {self.usable_users:,} have enough interactions to train and test on",
            "interactions": f"{self.interactions:,}",
            "order": order_in_words(self.order),
            **({"times": self.times} if self.order == BY_TIME else {}),
            REPEATED: self._repeated(),
            **({"ratings": self._rated(*self.ratings)} if self.ratings else {}),
            "interactions of a user": str(self.history_lengths),
            **({"tied timestamps": self._tied()} if self.order == BY_TIME else {}),
            "texts of users": f"{self.texts:,}",
            "skipped": in_words(self.skipped),
        }

    def _rated(self, low: float, high: float) -> str:
        verbs = "s have none and count" if self.unrated > 1 else " has none and counts"
        count = f"; {self.unrated:,} interaction{verbs} like the highest" if self.unrated else ""
        return f"{low:g} to {high:g}{count}"

    def _tied(self) -> str:
        return f"{self.tied_share:.1%} of the interactions (the order of the file decides)"

    def _repeated(self) -> str:
        count = f"{self.repeated:,} of the same user and item as an earlier one"
        return count if not self.repeated else f"{count} ({_REPEATS[self.repeats]})"


def in_words(skipped: Mapping[str, int]) -> str:
    """The counts by kind of issue as one phrase."""
    return ", ".join(f"{count:,} {kind}" for kind, count in skipped.items()) or NOTHING


def _values(count: int) -> str:
    return "many values" if count < 0 else f"{count:,} value{'s' if count != 1 else ''}"


class TextLengths:
    """Lengths of many texts, 4 bytes each."""

    def __init__(self) -> None:
        self._words = array("i")

    def add(self, text: str) -> None:
        """Count the words of one text."""
        self._words.append(text.count(" ") + 1)

    def spread(self) -> Spread:
        """Their spread."""
        return Spread.of(np.frombuffer(self._words, np.int32) if self._words else [])


def few_users(users: int) -> list[str]:
    """A caveat if the test has too few users, with the interval to expect."""
    if not 0 < users < _ENOUGH_USERS:
        return []
    half = _NORMAL_95 * _NDCG_DEVIATION / math.sqrt(users)
    return [
        f"only {users:,} users have enough interactions to test on: the 95 % interval of NDCG@10 will be about "
        f"+-{half:.2g}, and smaller differences are chance"
    ]


def short_histories(lengths: NDArray[np.int64]) -> list[str]:
    """A caveat if most users have too few interactions to test on.

    Args:
        lengths: the number of interactions that count for each user.
    """
    is_short, is_trained = lengths < MIN_INTERACTIONS, lengths >= _MIN_TRAINED
    if 2 * np.count_nonzero(is_short) <= len(lengths):
        return []
    trained, single = lengths[is_short & is_trained], np.count_nonzero(is_short & ~is_trained)
    return [
        f"{np.count_nonzero(is_short):,} of {len(lengths):,} users have fewer than {MIN_INTERACTIONS} interactions and "
        f"are not tested: {trained.sum():,} interactions of {len(trained):,} of these users are only trained on, and "
        f"{single:,} users with a single interaction are left out"
    ]


def tied_times(share: float) -> list[str]:
    """A caveat if most interactions share their time with another one of the same user."""
    if share < _MOSTLY_TIED_SHARE:
        return []
    return [
        f"{share:.0%} of the interactions share their timestamp with another interaction of the same user, and the "
        "order of the rows decides between them: if the rows are in no order, use --order none"
    ]
