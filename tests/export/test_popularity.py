"""Which items count as new: those that no history of training has, whoever else took them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from swiftrec.export.data.popularity import events_of, is_taken, popularity
from swiftrec.export.data.split import everything, leave_one_out, trainable
from swiftrec.export.data.text_variants import write_texts
from swiftrec.export.train.training_data import World
from swiftrec.server.catalogue.blend import item_vectors
from tests.export.tiny import dataset

_ITEMS = 24


def rows(*items: list[int]) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    return [np.array(row, dtype=np.int64) for row in items]


def test_item_of_a_user_with_a_single_event_is_new_to_training_and_to_the_score() -> None:
    """Item 23 has an event that teaches nothing; item 22 has one more than training knows."""
    without = [history[(history != 23) & (history != 22)] for history in dataset().histories]
    data = replace(dataset(), histories=[*without, *rows([22, 0], [22], [23])])
    split = everything(data)
    counts = popularity(data.histories, trainable(data.histories), _ITEMS)
    assert counts[[22, 23]].tolist() == [2, 0]
    assert events_of(data.histories, _ITEMS)[23] == 1
    world = World(split, texts := write_texts(data, 0), texts, None)
    assert (world.is_taken.numpy() == (counts > 0)).all()
    vectors = item_vectors(np.ones((_ITEMS, 1), np.float32), np.empty((_ITEMS, 0), np.float32), counts)
    assert (vectors[:, -1] == ~world.is_taken.numpy()).all()  # the entry that new items are raised by


def test_item_that_only_validates_is_new_to_the_measured_model() -> None:
    histories = [np.where(history == 23, 22, history) for history in dataset().histories]
    histories[3][-2] = 23
    split = leave_one_out(replace(dataset(), histories=histories), cold_share=0)
    assert 23 in split.valid
    counts = popularity(split.known, split.train, _ITEMS)
    assert events_of(split.known, _ITEMS)[23] == 1
    assert counts[23] == 0
    assert ((counts > 0) == is_taken(split.train, _ITEMS)).all()
    assert (counts[is_taken(split.train, _ITEMS)] == events_of(split.known, _ITEMS)[counts > 0]).all()


def test_nobody_took_anything_without_histories() -> None:
    assert not events_of([], 3).any()
    assert not popularity([], [], 3).any()
