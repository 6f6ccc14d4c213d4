"""The memory fitted on histories: transitions, neighbours and cold items."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.blend import cold_memory
from swiftrec.export.blend import memory as fitted
from swiftrec.export.blend.cold_memory import NearestWarmItems, fit_full_memory, with_cold_items, with_self_weights
from swiftrec.export.blend.memory import ease, fit_memory, followers, gram
from swiftrec.export.blend.requests import BlendRequest
from swiftrec.export.blend.signals import BlendItems, SignalBuilder
from swiftrec.export.blend.words import make_words
from swiftrec.export.data.order import UNORDERED
from swiftrec.export.data.popularity import popularity
from swiftrec.export.data.split import Cases, trainable
from swiftrec.export.evaluate.cold import NewItems, adjust
from swiftrec.export.evaluate.metrics import Score, mean_interval
from swiftrec.server.catalogue.blend import SIGNALS, Blend, BlendRow, Scoring, ScoringInput, Weights
from swiftrec.server.catalogue.memory import DECAY, EVENTS, Memory
from swiftrec.server.catalogue.sparse import Entries
from swiftrec.server.errors import BundleError
from tests.peak import peak_of

_ITEMS = 6
_HISTORIES = [np.array(h, dtype=np.int64) for h in ([0, 1, 2], [0, 1, 3], [4], [])]


def dense(result: Entries) -> NDArray[np.float64]:
    return np.bincount(result.positions, result.values, _ITEMS).astype(np.float64)


def test_transition_to_the_next_item_weighs_more_than_to_later_ones() -> None:
    chances = dense(fit_memory(_HISTORIES, _ITEMS).next_chances([np.array([0])]))
    assert chances[1] > chances[2] == chances[3] > 0
    assert chances[[0, 4, 5]].tolist() == [0, 0, 0]


def test_transitions_are_counted_only_within_the_window() -> None:
    pairs, counts = followers([np.arange(8)], 8)
    table = dict(zip(pairs.tolist(), counts.tolist(), strict=True))
    assert table[0 * 8 + 1] == 1
    assert 0 < table[0 * 8 + 5] < table[0 * 8 + 2] < 1
    assert 0 * 8 + 6 not in table
    assert 1 * 8 + 0 not in table


def test_recent_events_weigh_most_and_old_ones_nothing() -> None:
    memory = fit_memory([np.array([0, 1]), np.array([2, 3])], _ITEMS)
    chances = dense(memory.next_chances([np.array([0, 2])]))
    assert chances[1] == pytest.approx(DECAY * chances[3])
    assert dense(memory.next_chances([np.array([0, *[4] * EVENTS])]))[1] == 0


def test_neighbours_are_those_of_the_linear_model(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    histories = [np.unique(random.integers(0, _ITEMS, 4)) for _ in range(200)]
    matrix = np.zeros((len(histories), _ITEMS), np.float32)
    for row, history in zip(matrix, histories, strict=True):
        row[history] = 1
    counts = gram(histories, np.arange(_ITEMS), _ITEMS)
    np.testing.assert_array_equal(counts, matrix.T @ matrix)
    weights = ease(counts)
    np.testing.assert_allclose(
        dense(fit_memory(histories, _ITEMS).near_weights([np.array([2])])), weights[2], atol=1e-6
    )
    monkeypatch.setattr(fitted, "_MAX_NEIGHBOURS", 2)
    kept = fit_memory(histories, _ITEMS).near_weights([np.array([2])])
    assert sorted(kept.positions.tolist()) == sorted(np.argsort(-np.abs(weights[2]))[:2].tolist())


@pytest.mark.parametrize("rows", [7, 512])
def test_matrix_inverted_in_blocks_equals_the_full_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "_BLOCK_ROWS", rows)
    random, items = np.random.default_rng(2), 30
    histories = [random.permutation(items)[: random.integers(1, 9)] for _ in range(300)]
    matrix = np.zeros((len(histories), items))
    for row, history in zip(matrix, histories, strict=True):
        row[history] = 1
    counts = gram(histories, np.arange(items), items)
    np.testing.assert_array_equal(counts, matrix.T @ matrix)
    inverse = np.linalg.inv(matrix.T @ matrix + 500 * np.eye(items))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    weights = ease(counts)
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    near = fit_memory(histories, items).near_weights([np.array([20])])
    assert near.positions.tolist() == np.flatnonzero(weights[20]).tolist()
    np.testing.assert_allclose(near.values, weights[20][near.positions], atol=1e-6)


def test_fitting_memory_uses_little_more_than_one_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    random, items = np.random.default_rng(2), 1_024
    histories = [random.permutation(items)[:8] for _ in range(2_000)]
    monkeypatch.setattr(fitted, "_BLOCK_ROWS", 64)
    monkeypatch.setattr(fitted, "_MAX_NEIGHBOURS", 8)
    assert peak_of(lambda: fit_memory(histories, items, UNORDERED)) < 2 * 4 * items**2


def test_rows_are_bounded_by_their_strongest_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "_MAX_FOLLOWERS", 2)
    memory = fit_memory([np.array([0, 1, 2, 3, 4])], _ITEMS)
    assert memory.next_chances([np.array([0])]).positions.tolist() == [1, 2]


def test_only_the_most_popular_items_have_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitted, "MAX_SQUARE", 2)
    memory = fit_memory(_HISTORIES, _ITEMS)
    assert set(memory.near_weights([np.arange(_ITEMS)]).positions.tolist()) == {0, 1}


@pytest.mark.parametrize("histories", [[], [np.empty(0, np.int64)]])
def test_memory_without_events_is_empty(histories: list[NDArray[np.int64]]) -> None:
    for memory in (fit_memory(histories, _ITEMS), Memory.empty(_ITEMS)):
        result = memory.next_chances([np.array([0, 1])]), memory.near_weights([np.array([0])])
        assert [len(part.positions) for part in result] == [0, 0]


def test_saved_memory_gives_the_same_results(tmp_path: Path) -> None:
    memory = fit_memory(_HISTORIES, _ITEMS)
    memory.save(tmp_path)
    result = Memory.load(tmp_path, _ITEMS)
    events = np.array([0, 1])
    assert dense(result.next_chances([events])).tolist() == dense(memory.next_chances([events])).tolist()
    assert dense(result.near_weights([events])).tolist() == dense(memory.near_weights([events])).tolist()


def test_memory_without_order_has_neighbours_and_no_transitions() -> None:
    memory = fit_memory(_HISTORIES, _ITEMS, "none")
    assert len(memory.next_chances([np.array([0, 1])]).positions) == 0
    assert len(memory.near_weights([np.array([0])]).positions)


def test_table_without_a_row_for_each_item_is_refused(tmp_path: Path) -> None:
    fit_memory(_HISTORIES, _ITEMS).save(tmp_path)
    with pytest.raises(BundleError, match=rf"transitions-starts.npy: {_ITEMS} rows for {_ITEMS + 1} items"):
        Memory.load(tmp_path, _ITEMS + 1)


_SERIES_COUNT, _PARTS = 12, 4
_SERIES_ITEMS = _SERIES_COUNT * _PARTS
_RANDOM = np.random.default_rng(4)
_THEMES = np.linalg.qr(_RANDOM.normal(size=(16, 16)))[0][:_SERIES_COUNT]
_NOISY = np.repeat(_THEMES, _PARTS, axis=0) + 0.05 * _RANDOM.normal(size=(_SERIES_ITEMS, 16))
_SENTENCES = (_NOISY / np.linalg.norm(_NOISY, axis=1, keepdims=True)).astype(np.float32)
_NEW = np.arange(3, _SERIES_ITEMS, 2 * _PARTS)  # the last part of every other series


def histories() -> list[NDArray[np.int64]]:
    """Each user takes two series in order; no user has interacted with the new parts."""
    result = []
    for user in range(200):
        series = np.random.default_rng(user).choice(_SERIES_COUNT, 2, replace=False)
        items = np.concatenate([np.arange(_PARTS) + _PARTS * table for table in series])
        result.append(np.setdiff1d(items, _NEW, assume_unique=True).astype(np.int64))
    return result


def whole(taken: list[NDArray[np.int64]], sentences: NDArray[np.float32] = _SENTENCES) -> Memory:
    """The memory with what new items inherit."""
    return fit_full_memory(taken, popularity(taken, trainable(taken), _SERIES_ITEMS), sentences)


def weights_of(memory: Memory, event: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What both tables say of every item behind one event."""
    events = np.array([event], dtype=np.int64)
    both = memory.next_chances([events]), memory.near_weights([events])
    after, near = (np.bincount(part.positions, part.values, _SERIES_ITEMS).astype(np.float64) for part in both)
    return after, near


def test_new_item_inherits_memory_rows_of_items_with_the_nearest_texts() -> None:
    before, memory = fit_memory(histories(), _SERIES_ITEMS), whole(histories())
    for new in _NEW.tolist():
        for event in (new - 3, new - 2):
            for old, result in zip(weights_of(before, event), weights_of(memory, event), strict=True):
                assert old[new] == 0  # it has no counts
                other_new = np.setdiff1d(_NEW, [new])
                assert result[new] > 1.5 * max(result[other_new].max(), 0)
                assert result[new] > np.median(result[result > 0])


def test_item_outside_training_inherits_as_one_without_events() -> None:
    """A user whose only interaction is with it gives no evidence; its own counts are replaced, not added to."""
    new = int(_NEW[0])
    alone = [*histories(), np.array([new], dtype=np.int64)]
    for event in (new - 3, new - 2):
        for result, target in zip(weights_of(whole(alone), event), weights_of(whole(histories()), event), strict=True):
            assert result[new] == pytest.approx(target[new], rel=1e-3)
    pairs = [*histories(), *[np.array([new - 2, new], dtype=np.int64)] * 9]  # users who only validate
    counts = popularity(pairs, histories(), _SERIES_ITEMS)
    after = fit_full_memory(pairs, counts, _SENTENCES).transitions
    assert all(np.diff(after.positions[start:end]).min(initial=1) > 0 for start, end in pairwise(after.starts.tolist()))
    assert counts[new] == 0
    assert weights_of(fit_memory(pairs, _SERIES_ITEMS), new - 2)[0][new] > 0  # control: counts know it


def test_transition_of_an_item_to_itself_is_at_most_its_strongest_other_one() -> None:
    again = [np.repeat(history, 2) for history in histories()]
    memory = fit_memory(again, _SERIES_ITEMS)
    for event in np.setdiff1d(np.arange(_SERIES_ITEMS), _NEW).tolist():
        before, result = (weights_of(table, event)[0] for table in (memory, with_self_weights(memory)))
        assert before[event] > 0  # control: it follows itself already
        assert result[event] == before.max()
        others = np.arange(_SERIES_ITEMS) != event
        assert (result[others] == before[others]).all()


def test_rows_of_known_items_do_not_change_when_new_items_inherit() -> None:
    before, memory = fit_memory(histories(), _SERIES_ITEMS), whole(histories())
    known = np.setdiff1d(np.arange(_SERIES_ITEMS), _NEW)
    for event in range(_SERIES_ITEMS):
        for old, result in zip(weights_of(before, event), weights_of(memory, event), strict=True):
            assert (old[known] == result[known]).all()


def test_nothing_is_inherited_without_sentence_vectors_and_without_events() -> None:
    plain = whole(histories(), np.empty((_SERIES_ITEMS, 0), np.float32))
    nothing = whole([np.empty(0, np.int64)])
    for result, target in ((plain, fit_memory(histories(), _SERIES_ITEMS)), (nothing, Memory.empty(_SERIES_ITEMS))):
        for table, same in ((result.transitions, target.transitions), (result.neighbours, target.neighbours)):
            assert table.starts.tolist() == same.starts.tolist()
            assert (table.weights == same.weights).all()


def test_rows_are_bounded_when_many_items_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_memory, "_MAX_COLD", 2)
    before, memory = fit_memory(histories(), _SERIES_ITEMS), whole(histories())
    for table, old in ((memory.transitions, before.transitions), (memory.neighbours, before.neighbours)):
        assert (np.diff(table.starts) - np.diff(old.starts)).max() == 2
    after, _ = weights_of(memory, 2)
    assert after[3] == weights_of(whole(histories()), 2)[0][3]  # the largest are kept


def test_weights_are_fitted_on_the_served_tables_of_new_items() -> None:
    """The signals of items that count as new are those of a catalogue in which they are."""
    taken = np.bincount(np.concatenate(histories()), minlength=_SERIES_ITEMS)
    folds = np.where(taken > 0, np.arange(_SERIES_ITEMS) % 2, -1)
    memory, words = fit_memory(histories(), _SERIES_ITEMS), make_words([""] * _SERIES_ITEMS, [""] * _SERIES_ITEMS)
    vectors = np.ones((_SERIES_ITEMS, 2), np.float32)
    items = BlendItems(vectors, vectors, folds, _SENTENCES, taken.astype(float))
    history = np.array([0, 5, 1], dtype=np.int64)
    known, request = ScoringInput(3, history, _SENTENCES[history]), BlendRequest(history, "", 2, history)
    signals = SignalBuilder(items, Scoring(Blend([]), memory, words, _SERIES_ITEMS), 2, 0)
    (result,) = signals.choices([request], vectors[:1], lambda _: known)
    heirs = NearestWarmItems.of(_SENTENCES, np.where(folds >= 0, taken, 0), folds == 0)
    served = Scoring(Blend([]), with_cold_items(memory, heirs), words, _SERIES_ITEMS)
    added = served.added(Weights(**dict.fromkeys(SIGNALS, 1.0)), known)
    chosen = np.r_[2, [n for n in range(_SERIES_ITEMS) if folds[n] >= 0 and n not in (0, 5, 1, 2)]]
    is_new = folds[chosen] == 0
    plain = Scoring(Blend([]), memory, words, _SERIES_ITEMS).added(Weights(**dict.fromkeys(SIGNALS, 1.0)), known)
    for name in ("transitions", "neighbours"):
        column = result.signals[:, SIGNALS.index(name)]
        np.testing.assert_allclose(column[is_new], added[name].at(chosen)[is_new], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(column[~is_new], plain[name].at(chosen)[~is_new], rtol=1e-6)
        assert (column[is_new] > 0).any()


def cases(*, wants_new: bool) -> Cases:
    """Histories that end in the middle of a series, and the part that comes next there."""
    result, target = [], []
    for history in histories():
        last = int(history[-1]) // _PARTS * _PARTS
        is_new = last + _PARTS - 1 in _NEW
        if is_new == wants_new:
            result.append(history if is_new else history[:-1])
            target.append(last + _PARTS - 1)
    return Cases(np.arange(len(result)), result, np.array(target))


def scores_of(memory: Memory, request: Cases, text: float) -> Score:
    """What memory and text say of every item."""
    words = make_words([""] * _SERIES_ITEMS, [""] * _SERIES_ITEMS)
    scoring = Scoring(
        Blend([BlendRow("none", 0, Weights(0.0, events=text, transitions=0.8))]), memory, words, _SERIES_ITEMS
    )
    rows = np.zeros((len(request.targets), _SERIES_ITEMS), np.float32)
    for row, history in zip(rows, request.histories, strict=True):
        known = ScoringInput(len(history), history, _SENTENCES[history])
        row += _SENTENCES @ scoring.request_terms(known).rest[: _SENTENCES.shape[1]]
        scoring.request_terms(known).boosts.add_to(row)
    return lambda part: rows[part]


def test_inherited_memory_does_not_harm_cold_items_at_an_equal_share_of_the_lists() -> None:
    new_items = NewItems(cases(wants_new=False), cases(wants_new=True), _SERIES_ITEMS, _NEW)

    def cold(memory: Memory, text: float) -> NDArray[np.float64]:
        result = adjust(scores_of(memory, new_items.warm, text), scores_of(memory, new_items.cold, text), new_items)
        return result.cold.ndcg

    text_alone = cold(Memory.empty(_SERIES_ITEMS), 1.0)
    with_counts = cold(fit_memory(histories(), _SERIES_ITEMS), 0.5)
    assert mean_interval(cold(whole(histories()), 0.5) - text_alone, 7).high >= 0
    assert mean_interval(with_counts - text_alone, 7).high < 0  # control: without the inherited memory
