"""How the memory recommends new items: as it recommends the known ones with the nearest texts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.blend import inherit
from swiftrec.export.blend.inherit import Heirs, fit_whole_memory, with_heirs, with_itself
from swiftrec.export.blend.memory import fit_memory
from swiftrec.export.blend.requests import Asked
from swiftrec.export.blend.signals import Items, Signals
from swiftrec.export.blend.words import make_words
from swiftrec.export.data.popularity import popularity
from swiftrec.export.data.split import Cases, trainable
from swiftrec.export.evaluate.cold import NewItems, adjust
from swiftrec.export.evaluate.metrics import Score, figure
from swiftrec.server.catalogue.blend import SIGNALS, Blend, Known, Row, Scoring, Weights
from swiftrec.server.catalogue.sparse import Memory

_SERIES, _PARTS = 12, 4
_ITEMS = _SERIES * _PARTS
_RANDOM = np.random.default_rng(4)
_THEMES = np.linalg.qr(_RANDOM.normal(size=(16, 16)))[0][:_SERIES]
_NOISY = np.repeat(_THEMES, _PARTS, axis=0) + 0.05 * _RANDOM.normal(size=(_ITEMS, 16))
_SENTENCES = (_NOISY / np.linalg.norm(_NOISY, axis=1, keepdims=True)).astype(np.float32)
_NEW = np.arange(3, _ITEMS, 2 * _PARTS)  # the last part of every other series


def histories() -> list[NDArray[np.int64]]:
    """Each user takes two series in order; nobody takes the new parts."""
    found = []
    for user in range(200):
        series = np.random.default_rng(user).choice(_SERIES, 2, replace=False)
        items = np.concatenate([np.arange(_PARTS) + _PARTS * one for one in series])
        found.append(np.setdiff1d(items, _NEW, assume_unique=True).astype(np.int64))
    return found


def whole(taken: list[NDArray[np.int64]], sentences: NDArray[np.float32] = _SENTENCES) -> Memory:
    """The memory with what new items inherit."""
    return fit_whole_memory(taken, popularity(taken, trainable(taken), _ITEMS), sentences)


def weights_of(memory: Memory, event: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What both tables say of every item behind one event."""
    events = np.array([event], dtype=np.int64)
    both = memory.next_chances([events]), memory.near_weights([events])
    after, near = (np.bincount(part.positions, part.values, _ITEMS).astype(np.float64) for part in both)
    return after, near


def test_a_new_item_stands_in_the_memory_where_the_items_with_the_nearest_texts_stand() -> None:
    before, memory = fit_memory(histories(), _ITEMS), whole(histories())
    for new in _NEW.tolist():
        for event in (new - 3, new - 2):
            for old, found in zip(weights_of(before, event), weights_of(memory, event), strict=True):
                assert old[new] == 0  # counts know nothing of it
                others = np.setdiff1d(_NEW, [new])
                assert found[new] > 1.5 * max(found[others].max(), 0)
                assert found[new] > np.median(found[found > 0])


def test_an_item_that_no_training_history_has_inherits_like_one_without_events() -> None:
    """Whoever took it alone says nothing; what counts say of it is replaced, not added to."""
    new = int(_NEW[0])
    alone = [*histories(), np.array([new], dtype=np.int64)]
    for event in (new - 3, new - 2):
        for found, wanted in zip(weights_of(whole(alone), event), weights_of(whole(histories()), event), strict=True):
            assert found[new] == pytest.approx(wanted[new], rel=1e-3)
    pairs = [*histories(), *[np.array([new - 2, new], dtype=np.int64)] * 9]  # users who only validate
    counts = popularity(pairs, histories(), _ITEMS)
    after = fit_whole_memory(pairs, counts, _SENTENCES).transitions
    assert all(np.diff(after.positions[start:end]).min(initial=1) > 0 for start, end in pairwise(after.starts.tolist()))
    assert counts[new] == 0
    assert weights_of(fit_memory(pairs, _ITEMS), new - 2)[0][new] > 0  # control: counts know it


def test_an_item_that_is_taken_again_and_again_follows_itself_no_more_than_its_strongest_follower() -> None:
    again = [np.repeat(history, 2) for history in histories()]
    memory = fit_memory(again, _ITEMS)
    for event in np.setdiff1d(np.arange(_ITEMS), _NEW).tolist():
        before, found = (weights_of(one, event)[0] for one in (memory, with_itself(memory)))
        assert before[event] > 0  # control: it follows itself already
        assert found[event] == before.max()
        others = np.arange(_ITEMS) != event
        assert (found[others] == before[others]).all()


def test_what_is_known_of_the_other_items_does_not_change() -> None:
    before, memory = fit_memory(histories(), _ITEMS), whole(histories())
    known = np.setdiff1d(np.arange(_ITEMS), _NEW)
    for event in range(_ITEMS):
        for old, found in zip(weights_of(before, event), weights_of(memory, event), strict=True):
            assert (old[known] == found[known]).all()


def test_nothing_is_inherited_without_sentence_vectors_and_without_events() -> None:
    plain = whole(histories(), np.empty((_ITEMS, 0), np.float32))
    nothing = whole([np.empty(0, np.int64)])
    for found, wanted in ((plain, fit_memory(histories(), _ITEMS)), (nothing, Memory.empty(_ITEMS))):
        for table, same in ((found.transitions, wanted.transitions), (found.neighbours, wanted.neighbours)):
            assert table.starts.tolist() == same.starts.tolist()
            assert (table.weights == same.weights).all()


def test_rows_stay_bounded_however_many_items_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherit, "_INHERITED", 2)
    before, memory = fit_memory(histories(), _ITEMS), whole(histories())
    for table, old in ((memory.transitions, before.transitions), (memory.neighbours, before.neighbours)):
        assert (np.diff(table.starts) - np.diff(old.starts)).max() == 2
    after, _ = weights_of(memory, 2)
    assert after[3] == weights_of(whole(histories()), 2)[0][3]  # the largest are kept


def test_weights_are_fitted_on_what_the_served_tables_say_of_new_items() -> None:
    """The signals of items that count as new are those of a catalogue in which they are."""
    taken = np.bincount(np.concatenate(histories()), minlength=_ITEMS)
    folds = np.where(taken > 0, np.arange(_ITEMS) % 2, -1)
    memory, words = fit_memory(histories(), _ITEMS), make_words([""] * _ITEMS, [""] * _ITEMS)
    vectors = np.ones((_ITEMS, 2), np.float32)
    items = Items(vectors, vectors, folds, _SENTENCES, taken.astype(float))
    history = np.array([0, 5, 1], dtype=np.int64)
    known, request = Known(3, history, _SENTENCES[history]), Asked(history, "", 2, history)
    signals = Signals(items, Scoring(Blend([]), memory, words, _ITEMS), 2, 0)
    (found,) = signals.choices([request], vectors[:1], lambda _: known)
    heirs = Heirs.of(_SENTENCES, np.where(folds >= 0, taken, 0), folds == 0)
    served = Scoring(Blend([]), with_heirs(memory, heirs), words, _ITEMS)
    added = served.added(Weights(**dict.fromkeys(SIGNALS, 1.0)), known)
    chosen = np.r_[2, [n for n in range(_ITEMS) if folds[n] >= 0 and n not in (0, 5, 1, 2)]]
    is_new = folds[chosen] == 0
    plain = Scoring(Blend([]), memory, words, _ITEMS).added(Weights(**dict.fromkeys(SIGNALS, 1.0)), known)
    for name in ("transitions", "neighbours"):
        column = found.signals[:, SIGNALS.index(name)]
        np.testing.assert_allclose(column[is_new], added[name].at(chosen)[is_new], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(column[~is_new], plain[name].at(chosen)[~is_new], rtol=1e-6)
        assert (column[is_new] > 0).any()


def cases(*, wants_new: bool) -> Cases:
    """Histories that end in the middle of a series, and the part that comes next there."""
    found, wanted = [], []
    for history in histories():
        last = int(history[-1]) // _PARTS * _PARTS
        is_new = last + _PARTS - 1 in _NEW
        if is_new == wants_new:
            found.append(history if is_new else history[:-1])
            wanted.append(last + _PARTS - 1)
    return Cases(np.arange(len(found)), found, np.array(wanted))


def scores_of(memory: Memory, asked: Cases, text: float) -> Score:
    """What memory and text say of every item."""
    words = make_words([""] * _ITEMS, [""] * _ITEMS)
    scoring = Scoring(Blend([Row("none", 0, Weights(0.0, events=text, transitions=0.8))]), memory, words, _ITEMS)
    rows = np.zeros((len(asked.targets), _ITEMS), np.float32)
    for row, history in zip(rows, asked.histories, strict=True):
        known = Known(len(history), history, _SENTENCES[history])
        row += _SENTENCES @ scoring.aim(known).rest[: _SENTENCES.shape[1]]
        scoring.aim(known).boosts.add_to(row)
    return lambda part: rows[part]


def test_new_items_are_found_beside_what_counts_name_at_the_same_share_of_the_lists() -> None:
    newcomers = NewItems(cases(wants_new=False), cases(wants_new=True), _ITEMS, _NEW)

    def cold(memory: Memory, text: float) -> NDArray[np.float64]:
        found = adjust(scores_of(memory, newcomers.warm, text), scores_of(memory, newcomers.cold, text), newcomers)
        return found.cold.ndcg

    text_alone = cold(Memory.empty(_ITEMS), 1.0)
    with_counts = cold(fit_memory(histories(), _ITEMS), 0.5)
    assert figure(cold(whole(histories()), 0.5) - text_alone, 7).high >= 0
    assert figure(with_counts - text_alone, 7).high < 0  # control: without the inherited memory
