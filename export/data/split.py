"""Who trains and who tests: leave-one-out in time, or one global time split; some items are kept from training.

A data set without order was shuffled (`Dataset.without_order`): a "last" item is then one drawn at random.

Cold items: a seeded share of the items with enough events takes no part in training at all. Their events are removed
from what trains, validates and tests; the last one of each user is a case of its own, asked behind what the user had
taken before it.

Repeated interactions are dropped first where they do not count (`export.data.repeats`), so no target is an item of its
history that recommendations leave out.

Users with too few events for a test (two or three in leave-one-out) only train: they have no validation or test case.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.ratings import Worth, worth_of
from swiftrec.export.data.repeats import EXCLUDE, Repeats, counted, masked
from swiftrec.export.errors import DataError

Histories = list[NDArray[np.int64]]
Protocol = Literal["leave-one-out", "time"]

COLD_SHARE = 0.05
_MIN_COLD_EVENTS = 10  # fewer would make no cases
MIN_USERS = 2
MIN_EVENTS = 4  # two to train on, one to validate, one to test
_MIN_TRAIN_EVENTS = 2  # an event, and the one after it
_MIN_BEFORE = 2  # events before what a case asks for
_TIME_SHARE = 0.8  # of all events lie before the cut of the global time split
_SEED = 2_026  # the same items whatever the export's seed: bundles stay comparable


@dataclass(frozen=True, slots=True)
class Cases:
    """What is asked in a test: `users[c]` (a row of the data set) has taken `histories[c]`, then wants `wanted[c]`.

    `repeats` decides whether the items of a history may be recommended again. `same[c]` are further items that count as
    the wanted one; empty where no case has any.
    """

    users: NDArray[np.int64]
    histories: Histories
    wanted: NDArray[np.int64]
    repeats: Repeats = EXCLUDE
    same: Histories = field(default_factory=list)

    @property
    def masked(self) -> Histories:
        """The items that may not be recommended in each case."""
        return [masked(history, self.repeats) for history in self.histories]

    @property
    def without_histories(self) -> Cases:
        """The same wanted items, asked for by somebody of whom nothing else is known."""
        return replace(self, histories=[history[:0] for history in self.histories])

    def take(self, rows: NDArray[np.int64]) -> Cases:
        """Some of the cases."""
        same = [self.same[n] for n in rows] if self.same else []
        return Cases(self.users[rows], [self.histories[n] for n in rows], self.wanted[rows], self.repeats, same)


@dataclass(frozen=True, slots=True)
class Split:
    """`train[u]` are positions oldest first, `valid[u]` the one after them: all that training may see.

    The histories behind the first `len(valid)` are those of users with too few events for a test; they only train.
    `warm` and `unseen` are the tests: items that training saw, and `cold` ones (positions, sorted) that it did not.
    `worth[u]` says how much each event of `train[u]` is wanted, in (0, 1]; empty where the data set has no ratings.
    `order` is the data set's: where it is "none", which event comes before which means nothing.
    """

    train: Histories
    valid: NDArray[np.int64]
    warm: Cases
    unseen: Cases
    cold: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    worth: Worth = field(default_factory=list)
    repeats: Repeats = EXCLUDE
    order: Order = BY_TIME

    def reordered(self, rng: np.random.Generator) -> Split:
        """The same with each training history in an order drawn at random, its worth alike."""
        orders = [rng.permutation(len(history)) for history in self.train]
        train = [row[order] for row, order in zip(self.train, orders, strict=True)]
        worth = [row[order] for row, order in zip(self.worth, orders, strict=True)] if self.worth else []
        return replace(self, train=train, worth=worth)

    @property
    def validation(self) -> Cases:
        """Each training history, and the item after it: what training is validated by."""
        users = len(self.valid)
        return Cases(np.arange(users), self.train[:users], self.valid, self.repeats)

    @property
    def known(self) -> Histories:
        """Everything before the test, each user's validation item included: what baselines are fitted on."""
        users = len(self.valid)
        whole = [np.append(train, valid) for train, valid in zip(self.train[:users], self.valid, strict=True)]
        return [*whole, *self.train[users:]]


def split(
    dataset: Dataset,
    protocol: Protocol = "leave-one-out",
    *,
    cold_share: float = COLD_SHARE,
    repeats: Repeats = EXCLUDE,
) -> Split:
    """The split by name. See `leave_one_out` and `time_split`."""
    if protocol == "time":
        return time_split(dataset, cold_share=cold_share, repeats=repeats)
    return leave_one_out(dataset, cold_share=cold_share, repeats=repeats)


def leave_one_out(dataset: Dataset, *, cold_share: float = COLD_SHARE, repeats: Repeats = EXCLUDE) -> Split:
    """A user's last item tests, the one before validates, the rest trains; users with two or three items only train.

    Raises:
        DataError: no history is long enough.
    """
    dataset = counted(dataset, repeats)
    cold = cold_items(dataset, cold_share)
    is_cold = _marks(cold, len(dataset.items))
    kept = [~is_cold[h] for h in dataset.histories]
    warm = [h[k] for h, k in zip(dataset.histories, kept, strict=True)]
    users = [u for u, h in enumerate(warm) if len(h) >= MIN_EVENTS]
    if len(users) < MIN_USERS:
        raise DataError(f"at least {MIN_USERS} users with {MIN_EVENTS} interactions are needed, found {len(users)}")
    short = [u for u, h in enumerate(warm) if _MIN_TRAIN_EVENTS <= len(h) < MIN_EVENTS]
    cases = _cases([(u, warm[u][:-1], warm[u][-1]) for u in users], repeats)
    return Split(
        train=[*(warm[u][:-2] for u in users), *(warm[u] for u in short)],
        valid=np.array([warm[u][-2] for u in users]),
        warm=cases,
        unseen=_unseen(dataset, cold, repeats),
        cold=cold,
        worth=[*(w[:-2] for w in _worth(dataset, kept, users)), *_worth(dataset, kept, short)],
        repeats=repeats,
        order=dataset.order,
    )


def time_split(dataset: Dataset, *, cold_share: float = COLD_SHARE, repeats: Repeats = EXCLUDE) -> Split:
    """Training ends at one moment for everybody, after 80 % of all events; each later user's last event tests.

    A case's history grows as it would while serving: events between the cut and the test are known to it, but not to
    training.

    Raises:
        DataError: the data set has no times, or too few users before or after the cut.
    """
    if not dataset.times:
        raise DataError("the global time split needs the time of every interaction")
    dataset = counted(dataset, repeats)
    cut = float(np.quantile(np.concatenate(dataset.times), _TIME_SHARE))
    cold = cold_items(dataset, cold_share)
    is_cold = _marks(cold, len(dataset.items))
    kept = [~is_cold[h] for h in dataset.histories]
    rows = [(h[k], t[k]) for h, t, k in zip(dataset.histories, dataset.times, kept, strict=True)]
    early = [k & (t <= cut) for k, t in zip(kept, dataset.times, strict=True)]
    users = [u for u, e in enumerate(early) if np.count_nonzero(e) > _MIN_BEFORE]
    short = [u for u, e in enumerate(early) if np.count_nonzero(e) == _MIN_TRAIN_EVENTS]
    train = [dataset.histories[u][early[u]] for u in users]
    later = [(u, h[:-1], h[-1]) for u, (h, t) in enumerate(rows) if len(h) > _MIN_BEFORE and t[-1] > cut]
    if min(len(train), len(later)) < MIN_USERS:
        raise DataError(f"the global time split leaves {len(train)} users before and {len(later)} after the cut")
    return Split(
        train=[*(h[:-1] for h in train), *(dataset.histories[u][early[u]] for u in short)],
        valid=np.array([h[-1] for h in train]),
        warm=_cases(later, repeats),
        unseen=_unseen(dataset, cold, repeats),
        cold=cold,
        worth=[*(w[:-1] for w in _worth(dataset, early, users)), *_worth(dataset, early, short)],
        repeats=repeats,
    )


def everything(dataset: Dataset, *, repeats: Repeats = EXCLUDE) -> Split:
    """All events train and nothing is tested: for the model that is served once the figures are known."""
    dataset = counted(dataset, repeats)
    users = [u for u, h in enumerate(dataset.histories) if _can_train(h)]
    whole = [np.ones(len(h), dtype=bool) for h in dataset.histories]
    return Split(
        train=[dataset.histories[u] for u in users],
        valid=np.empty(0, np.int64),
        warm=_cases([], repeats),
        unseen=_cases([], repeats),
        worth=_worth(dataset, whole, users),
        repeats=repeats,
        order=dataset.order,
    )


def always_trained(dataset: Dataset) -> Histories:
    """The events of each user that train by every protocol, and never test or validate, whatever `repeats` is."""
    dataset, raw = counted(dataset, EXCLUDE), dataset
    size = len(dataset.items)
    is_cold = _marks(cold_items(raw, COLD_SHARE), size) | _marks(cold_items(dataset, COLD_SHARE), size)
    warm = [history[~is_cold[history]] for history in dataset.histories]
    lengths = [len(history) - 2 for history in warm]
    if dataset.times:
        times = [t[~is_cold[h]] for h, t in zip(dataset.histories, dataset.times, strict=True)]
        cuts = [np.quantile(np.concatenate(one.times), _TIME_SHARE) for one in (dataset, raw)]
        before = [int(np.count_nonzero(row <= min(cuts))) - 1 for row in times]
        lengths = [min(one, other) for one, other in zip(lengths, before, strict=True)]
    return [history[: max(0, length)] for history, length in zip(warm, lengths, strict=True)]


def trainable(histories: Histories) -> Histories:
    """The histories that say what follows an event: those with at least two."""
    return [history for history in histories if _can_train(history)]


def _can_train(history: NDArray[np.int64]) -> bool:
    return len(history) >= _MIN_TRAIN_EVENTS


def cold_items(dataset: Dataset, share: float) -> NDArray[np.int64]:
    """Positions of the items that training never sees, sorted: a seeded `share` of those with enough events."""
    counts = np.bincount(np.concatenate([*dataset.histories, np.empty(0, np.int64)]), minlength=len(dataset.items))
    eligible = np.flatnonzero(counts >= _MIN_COLD_EVENTS)
    drawn = np.random.default_rng(_SEED).permutation(eligible)[: round(share * len(eligible))]
    return np.sort(drawn)


def _marks(positions: NDArray[np.int64], items: int) -> NDArray[np.bool_]:
    marks = np.zeros(items, dtype=bool)
    marks[positions] = True
    return marks


def _worth(dataset: Dataset, kept: list[NDArray[np.bool_]], users: list[int]) -> Worth:
    """Of the events of `users` that are kept."""
    worth = worth_of(dataset.ratings)
    return [worth[u][kept[u]] for u in users] if worth else []


def _unseen(dataset: Dataset, cold: NDArray[np.int64], repeats: Repeats) -> Cases:
    """For each user the last cold item behind at least two others."""
    found, marks = [], _marks(cold, len(dataset.items))
    for user, history in enumerate(dataset.histories):
        is_cold = marks[history]
        places = np.flatnonzero(is_cold & (np.cumsum(~is_cold) >= _MIN_BEFORE))
        if len(places):
            last = int(places[-1])
            found.append((user, history[:last][~is_cold[:last]], history[last]))
    return _cases(found, repeats)


def _cases(rows: list[tuple[int, NDArray[np.int64], np.int64]], repeats: Repeats) -> Cases:
    return Cases(
        users=np.array([user for user, _, _ in rows], dtype=np.int64),
        histories=[history for _, history, _ in rows],
        wanted=np.array([wanted for _, _, wanted in rows], dtype=np.int64),
        repeats=repeats,
    )
