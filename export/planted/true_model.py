"""A data set drawn from a known model, so that the best possible recommender is known.

Each item has a topic, which is visible in its words and in no attribute, a popularity with a long tail, and a few items
that follow it more often than chance. A user's next item is drawn, with known shares, from one of three distributions:
what follows the last item, the topics of all items so far, or popularity alone. No user has an item twice. Some items
are released late, so no interaction with them is early.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.arrays import Histories
from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.planted.topics import ADJECTIVES, KINDS, TOPICS

Chances = NDArray[np.float64]

_FOLLOWERS = (0.6, 0.3, 0.1)  # chances of the items that follow one
_TAIL = 0.8  # popularity is rank ** -0.8
_WORDS_PER_TEXT = 4
_NEW_SHARE, _NEW_FROM, _NEW_TO = 0.04, 0.85, 0.97  # of the items, and of the time at which they come out
_MIN_EVENTS, _MAX_EVENTS = 10, 30
_LATEST_START = 0.7  # of the time, for a user's first item
_FIRST_SECOND, _SECONDS = 1_704_067_200, 365 * 86_400  # a year from 1 January 2024 on
_FIRST_YEAR, _YEARS = 1970, 50
_BLOCK = 256  # users drawn at once, which limits the array of chances [users, items]

MAX_ITEMS = len(TOPICS) * len(TOPICS[0]) * len(ADJECTIVES)


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of the interactions drawn by what follows, by topic and by popularity; their sum is 1."""

    chains: float
    topics: float
    popularity: float


@dataclass(frozen=True, slots=True)
class TrueModel:
    """The true model.

    Args:
        topics: number of each item's topic, [items].
        weights: popularity, with the sum 1, [items].
        followers: items that follow each, [items, 3], most likely first.
        released: when each item is released, as a share of the whole time; 0 for most.
        shares: of the three ways to draw.
    """

    topics: NDArray[np.int64]
    weights: Chances
    followers: NDArray[np.int64]
    released: Chances
    shares: Shares

    @classmethod
    def draw(cls, items: int, shares: Shares, rng: np.random.Generator) -> TrueModel:
        """Draw a model with a number of items."""
        ranks = 1.0 + rng.permutation(items)
        weights: Chances = np.power(ranks, -_TAIL, dtype=np.float64)
        weights /= weights.sum()
        followers = [_others(n, weights, rng) for n in range(items)]
        released = np.zeros(items)
        new = rng.permutation(items)[: round(_NEW_SHARE * items)]
        released[new] = rng.uniform(_NEW_FROM, _NEW_TO, len(new))
        return cls(rng.permutation(np.arange(items) % len(TOPICS)), weights, np.array(followers), released, shares)

    def with_shares(self, shares: Shares) -> TrueModel:
        """The same model with other shares."""
        return replace(self, shares=shares)

    def chances(self, histories: Histories, time: Chances) -> Chances:
        """Probability of each item to be the next one, [histories, items]; no history may be empty.

        Args:
            histories: items of each user, oldest first.
            time: of the next interaction, [histories].
        """
        size = (len(histories), len(self.weights))
        allowed = self.released[None] <= time[:, None]
        for row, history in zip(allowed, histories, strict=True):
            row[history] = False
        chains, topics = np.zeros(size), np.zeros((len(histories), len(TOPICS)))
        for n, history in enumerate(histories):
            chains[n, self.followers[history[-1]]] = _FOLLOWERS
            np.add.at(topics[n], self.topics[history], 1.0)
        by_topic = topics[:, self.topics] * (self.weights / np.bincount(self.topics, self.weights)[self.topics])
        distributions = (chains, by_topic, np.broadcast_to(self.weights, size))
        shares = (self.shares.chains, self.shares.topics, self.shares.popularity)
        mixed = np.zeros(size)
        for distribution, share in zip(distributions, shares, strict=True):
            mixed += share * _scaled(distribution * allowed)
        return _scaled(mixed)


def draw_dataset(model: TrueModel, users: int, rng: np.random.Generator) -> Dataset:
    """Draw items with texts, and the interactions of a number of users."""
    histories: Histories = []
    times: list[NDArray[np.float64]] = []
    for start in range(0, users, _BLOCK):
        block, block_times = _draw_users(model, min(_BLOCK, users - start), rng)
        histories += block
        times += block_times
    seconds = [np.floor(_FIRST_SECOND + t * _SECONDS) for t in times]
    items = _items(model, rng)
    return Dataset(items, histories, ["title"], [], "made up by swiftrec export planted", "none", seconds)


def _others(item: int, weights: Chances, rng: np.random.Generator) -> NDArray[np.int64]:
    """Three other items, popular ones more often."""
    drawn = rng.choice(len(weights), len(_FOLLOWERS) + 1, replace=False, p=weights)
    others: NDArray[np.int64] = drawn[drawn != item][: len(_FOLLOWERS)]
    return others


def _scaled(chances: Chances) -> Chances:
    """Rows that sum to 1; those of zeros stay."""
    totals = chances.sum(1, keepdims=True)
    scaled: Chances = np.divide(chances, totals, out=np.zeros_like(chances), where=totals > 0)
    return scaled


def _draw_users(model: TrueModel, users: int, rng: np.random.Generator) -> tuple[Histories, list[NDArray[np.float64]]]:
    """Items and times (shares of the whole) of a number of users, from their first item on."""
    lengths = rng.integers(_MIN_EVENTS, _MAX_EVENTS + 1, users)
    times = [np.sort(rng.uniform(rng.uniform(0, _LATEST_START), 1, length)) for length in lengths]
    first = model.weights * (model.released == 0)
    histories = [[int(item)] for item in rng.choice(len(first), users, p=first / first.sum())]
    for step in range(1, _MAX_EVENTS):
        active = np.flatnonzero(lengths > step)
        now = np.array([times[u][step] for u in active])
        chances = model.chances([np.array(histories[u]) for u in active], now)
        drawn = (chances.cumsum(1) < rng.uniform(0, 1 - 1e-9, (len(active), 1))).sum(1)
        for user, item in zip(active, drawn, strict=True):
            histories[user].append(int(item))
    return [np.array(row, dtype=np.int64) for row in histories], times


def _items(model: TrueModel, rng: np.random.Generator) -> list[DatasetItem]:
    """Titles of an adjective and a noun of the topic, no two alike; texts with more of the topic's nouns."""
    titles = {topic: _titles(nouns, rng) for topic, nouns in enumerate(TOPICS)}
    items = []
    for number, topic in enumerate(model.topics.tolist()):
        title, nouns = titles[topic].pop(), rng.choice(TOPICS[topic], _WORDS_PER_TEXT, replace=False)
        kind, year = str(rng.choice(KINDS)), str(_FIRST_YEAR + int(rng.integers(_YEARS)))
        text = f"{title}. A {kind} of {', '.join(nouns[:-1])} and {nouns[-1]}"
        items.append(DatasetItem(f"item-{number + 1}", title, text, {"kind": [kind], "year": [year]}))
    return items


def _titles(nouns: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    titles = [f"The {adjective.capitalize()} {noun.capitalize()}" for adjective in ADJECTIVES for noun in nouns]
    return [titles[n] for n in rng.permutation(len(titles))]
