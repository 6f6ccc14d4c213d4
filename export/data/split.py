"""Training, validation and test cases: leave-one-out in time, or one global time split; some items are held out.

A data set without order was shuffled (`Dataset.without_order`), so its "last" items are random ones.

Cold items: a seeded share of the items with enough interactions is held out. Their interactions are removed from the
training histories and from the validation and test cases; the last one of each user is the target of a separate case,
with the user's earlier interactions as its history.

Repeated interactions that do not count (`export.data.repeats`) are dropped first, so no target is an item of the
history that cannot be recommended.

Users with too few interactions for a test (two or three in leave-one-out) have a training history only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swiftrec.export.arrays import Histories
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.relevance import Relevance, relevance_of
from swiftrec.export.data.repeats import EXCLUDE, Repeats, counted, masked
from swiftrec.export.errors import DataError
from swiftrec.server.arrays import Mask, Positions

Protocol = Literal["leave-one-out", "time"]

COLD_SHARE = 0.05
_MIN_COLD_INTERACTIONS = 10  # with fewer there would be no cases
MIN_USERS = 2
MIN_INTERACTIONS = 4  # two to train on, one to validate, one to test
_MIN_TRAIN_INTERACTIONS = 2  # an interaction and the next one
_MIN_BEFORE = 2  # interactions before the target of a case
_TIME_SHARE = 0.8  # of all interactions are before the cut of the global time split
_SEED = 2_026  # fixed, so that bundles with other seeds stay comparable


@dataclass(frozen=True, slots=True)
class Cases:
    """Test cases.

    Args:
        users: positions of the users in the data set, int64 [cases].
        histories: item positions that the user interacted with, oldest first.
        targets: the position of the item that should be recommended, int64 [cases].
        repeats: whether items of a history may be recommended again.
        equivalents: items that count as the target, too; empty if no case has any.
    """

    users: Positions
    histories: Histories
    targets: Positions
    repeats: Repeats = EXCLUDE
    equivalents: Histories = field(default_factory=list)

    @property
    def masked(self) -> Histories:
        """The items that may not be recommended in each case."""
        return [masked(history, self.repeats) for history in self.histories]

    @property
    def without_histories(self) -> Cases:
        """The same targets with empty histories."""
        return replace(self, histories=[history[:0] for history in self.histories])

    def take(self, rows: Positions) -> Cases:
        """Some of the cases."""
        equivalents = [self.equivalents[n] for n in rows] if self.equivalents else []
        return Cases(self.users[rows], [self.histories[n] for n in rows], self.targets[rows], self.repeats, equivalents)


@dataclass(frozen=True, slots=True)
class Split:
    """Training histories, validation targets and test cases.

    Args:
        train: item positions of each user, oldest first; users with too few interactions for a test come last.
        valid: the next item of each of the first `len(valid)` users.
        warm: test cases whose target is in training.
        cold_cases: test cases whose target is a cold item.
        cold: positions of the items that are held out from training, sorted.
        relevance: in (0, 1], of each interaction in `train`; empty if the data set has no ratings.
        repeats: whether items of a history may be recommended again.
        order: the data set's; if it is "none", the order within a history has no meaning.
    """

    train: Histories
    valid: NDArray[np.int64]
    warm: Cases
    cold_cases: Cases
    cold: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    relevance: Relevance = field(default_factory=list)
    repeats: Repeats = EXCLUDE
    order: Order = BY_TIME

    def reordered(self, rng: np.random.Generator) -> Split:
        """The same with each training history (and its relevance) shuffled."""
        orders = [rng.permutation(len(history)) for history in self.train]
        train = [row[order] for row, order in zip(self.train, orders, strict=True)]
        relevance = [row[order] for row, order in zip(self.relevance, orders, strict=True)] if self.relevance else []
        return replace(self, train=train, relevance=relevance)

    @property
    def validation(self) -> Cases:
        """Each training history with the next item as its target."""
        users = len(self.valid)
        return Cases(np.arange(users), self.train[:users], self.valid, self.repeats)

    @property
    def known(self) -> Histories:
        """Everything before the test, including validation targets: the data for baselines."""
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
    """The split by `protocol`; see `leave_one_out` and `time_split`."""
    if protocol == "time":
        return time_split(dataset, cold_share=cold_share, repeats=repeats)
    return leave_one_out(dataset, cold_share=cold_share, repeats=repeats)


def leave_one_out(dataset: Dataset, *, cold_share: float = COLD_SHARE, repeats: Repeats = EXCLUDE) -> Split:
    """A user's last item is for testing, the one before for validation, the rest for training; see the module.

    Raises:
        DataError: fewer than two histories are long enough.
    """
    dataset = counted(dataset, repeats)
    cold = cold_items(dataset, cold_share)
    is_cold = _mask(cold, len(dataset.items))
    kept = [~is_cold[h] for h in dataset.histories]
    warm = [h[k] for h, k in zip(dataset.histories, kept, strict=True)]
    users = [u for u, h in enumerate(warm) if len(h) >= MIN_INTERACTIONS]
    if len(users) < MIN_USERS:
        raise DataError(
            f"at least {MIN_USERS} users with {MIN_INTERACTIONS} interactions are needed, found {len(users)}"
        )
    short = [u for u, h in enumerate(warm) if _MIN_TRAIN_INTERACTIONS <= len(h) < MIN_INTERACTIONS]
    cases = _cases([(u, warm[u][:-1], warm[u][-1]) for u in users], repeats)
    return Split(
        train=[*(warm[u][:-2] for u in users), *(warm[u] for u in short)],
        valid=np.array([warm[u][-2] for u in users]),
        warm=cases,
        cold_cases=_cold_cases(dataset, cold, repeats),
        cold=cold,
        relevance=[*(w[:-2] for w in _relevance(dataset, kept, users)), *_relevance(dataset, kept, short)],
        repeats=repeats,
        order=dataset.order,
    )


def time_split(dataset: Dataset, *, cold_share: float = COLD_SHARE, repeats: Repeats = EXCLUDE) -> Split:
    """Training ends at the same time for all users, after 80 % of all interactions; later users' last ones are tested.

    As in serving, the history of a case includes the interactions between the cut and its target; training does not.

    Raises:
        DataError: the data set has no times, or too few users before or after the cut.
    """
    if not dataset.times:
        raise DataError("the global time split needs the time of every interaction")
    dataset = counted(dataset, repeats)
    cut = float(np.quantile(np.concatenate(dataset.times), _TIME_SHARE))
    cold = cold_items(dataset, cold_share)
    is_cold = _mask(cold, len(dataset.items))
    kept = [~is_cold[h] for h in dataset.histories]
    rows = [(h[k], t[k]) for h, t, k in zip(dataset.histories, dataset.times, kept, strict=True)]
    early = [k & (t <= cut) for k, t in zip(kept, dataset.times, strict=True)]
    users = [u for u, e in enumerate(early) if np.count_nonzero(e) > _MIN_BEFORE]
    short = [u for u, e in enumerate(early) if np.count_nonzero(e) == _MIN_TRAIN_INTERACTIONS]
    train = [dataset.histories[u][early[u]] for u in users]
    later = [(u, h[:-1], h[-1]) for u, (h, t) in enumerate(rows) if len(h) > _MIN_BEFORE and t[-1] > cut]
    if min(len(train), len(later)) < MIN_USERS:
        raise DataError(f"the global time split leaves {len(train)} users before and {len(later)} after the cut")
    return Split(
        train=[*(h[:-1] for h in train), *(dataset.histories[u][early[u]] for u in short)],
        valid=np.array([h[-1] for h in train]),
        warm=_cases(later, repeats),
        cold_cases=_cold_cases(dataset, cold, repeats),
        cold=cold,
        relevance=[*(w[:-1] for w in _relevance(dataset, early, users)), *_relevance(dataset, early, short)],
        repeats=repeats,
    )


def everything(dataset: Dataset, *, repeats: Repeats = EXCLUDE) -> Split:
    """All interactions for training and none for testing: for the model that is served after evaluation."""
    dataset = counted(dataset, repeats)
    users = [u for u, h in enumerate(dataset.histories) if _can_train(h)]
    whole = [np.ones(len(h), dtype=bool) for h in dataset.histories]
    return Split(
        train=[dataset.histories[u] for u in users],
        valid=np.empty(0, np.int64),
        warm=_cases([], repeats),
        cold_cases=_cases([], repeats),
        relevance=_relevance(dataset, whole, users),
        repeats=repeats,
        order=dataset.order,
    )


def always_trained(dataset: Dataset) -> Histories:
    """The interactions of each user that are for training in both protocols, whatever `repeats` is."""
    dataset, raw = counted(dataset, EXCLUDE), dataset
    size = len(dataset.items)
    is_cold = _mask(cold_items(raw, COLD_SHARE), size) | _mask(cold_items(dataset, COLD_SHARE), size)
    warm = [history[~is_cold[history]] for history in dataset.histories]
    lengths = [len(history) - 2 for history in warm]
    if dataset.times:
        times = [t[~is_cold[h]] for h, t in zip(dataset.histories, dataset.times, strict=True)]
        cuts = [np.quantile(np.concatenate(data.times), _TIME_SHARE) for data in (dataset, raw)]
        before = [int(np.count_nonzero(row <= min(cuts))) - 1 for row in times]
        lengths = [min(pair) for pair in zip(lengths, before, strict=True)]
    return [history[: max(0, length)] for history, length in zip(warm, lengths, strict=True)]


def trainable(histories: Histories) -> Histories:
    """The histories with at least two interactions."""
    return [history for history in histories if _can_train(history)]


def _can_train(history: Positions) -> bool:
    return len(history) >= _MIN_TRAIN_INTERACTIONS


def cold_items(dataset: Dataset, share: float) -> NDArray[np.int64]:
    """Positions of the items that are held out, sorted: a seeded `share` of those with enough interactions."""
    counts = np.bincount(np.concatenate([*dataset.histories, np.empty(0, np.int64)]), minlength=len(dataset.items))
    eligible = np.flatnonzero(counts >= _MIN_COLD_INTERACTIONS)
    drawn = np.random.default_rng(_SEED).permutation(eligible)[: round(share * len(eligible))]
    return np.sort(drawn)


def _mask(positions: Positions, items: int) -> Mask:
    mask = np.zeros(items, dtype=bool)
    mask[positions] = True
    return mask


def _relevance(dataset: Dataset, kept: list[Mask], users: list[int]) -> Relevance:
    """The relevance of the interactions of `users` that are kept."""
    relevance = relevance_of(dataset.ratings)
    return [relevance[u][kept[u]] for u in users] if relevance else []


def _cold_cases(dataset: Dataset, cold: NDArray[np.int64], repeats: Repeats) -> Cases:
    """For each user the last cold item after at least two other items."""
    rows, is_cold_item = [], _mask(cold, len(dataset.items))
    for user, history in enumerate(dataset.histories):
        is_cold = is_cold_item[history]
        candidates = np.flatnonzero(is_cold & (np.cumsum(~is_cold) >= _MIN_BEFORE))
        if len(candidates):
            last = int(candidates[-1])
            rows.append((user, history[:last][~is_cold[:last]], history[last]))
    return _cases(rows, repeats)


def _cases(rows: list[tuple[int, NDArray[np.int64], np.int64]], repeats: Repeats) -> Cases:
    return Cases(
        users=np.array([user for user, _, _ in rows], dtype=np.int64),
        histories=[history for _, history, _ in rows],
        targets=np.array([target for _, _, target in rows], dtype=np.int64),
        repeats=repeats,
    )
