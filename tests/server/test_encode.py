"""Texts to vectors: equal texts of a batch run once, the cache is bounded, and what fails is not kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swiftrec.server.errors import ModelFailed
from swiftrec.server.pipeline.recommend import encode
from swiftrec.server.pipeline.request_state import TextState
from swiftrec.server.pipeline.vector_cache import VectorCache
from tests.server import small
from tests.server.workers import Row, SmallEngine

_WORDS = ["a", "b", "cc", "dd", "eee", "q", "qq"]  # the encoder fails on those with a q
_ENTRY_BYTES = 360


class Counts:
    """Where vectors came from."""

    def __init__(self) -> None:
        self.texts = {"hit": 0, "joined": 0, "miss": 0}

    def looked_up(self, source: str, texts: int) -> None:
        self.texts[source] += texts


def vector(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize("cache_bytes", [0, 1_000, 1_000_000])
def test_each_text_gets_its_vector_and_runs_once_in_a_batch(tmp_path: Path, cache_bytes: int) -> None:
    one = SmallEngine(small.write_bundle(tmp_path / "1"), cache_bytes=cache_bytes)
    one.encoder.fails = {one.row("q")[1]}
    ran, counts, stages = list[Row](), Counts(), one.engine.stages
    object.__setattr__(stages, "lookups", counts)
    one.encoder.on_run = ran.extend
    alone = {
        word: small.TinyEncoder().run({"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)))})[0]
        for word in _WORDS
        if (row := one.row(word))
    }

    @settings(deadline=None)
    @given(st.lists(st.lists(st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4), min_size=1), max_size=4))
    def holds(batches: list[list[list[str]]]) -> None:
        for batch in batches:
            states = [TextState(one.engine.tokenizer.encode(words)) for words in batch]
            before, had = sum(counts.texts.values()), counts.texts["miss"]
            ran.clear()
            encode(stages, states)
            distinct = {word for words in batch for word in words}
            assert {*ran} <= {one.row(word) for word in distinct}
            assert sum(counts.texts.values()) - before == sum(map(len, batch))
            assert counts.texts["miss"] - had == len({*ran})
            good = [row for row in ran if row[1] not in one.encoder.fails]
            assert len(good) <= 2 * len({*good})  # twice only beside one that failed
            assert stages.cache.size_bytes <= cache_bytes
            for words, state in zip(batch, states, strict=True):
                assert isinstance(state.error, ModelFailed) == any("q" in word for word in words)
                for word, found in zip(words, state.vectors, strict=True):
                    assert (found is None) == ("q" in word)
                    assert found is None or np.array_equal(found, alone[word])

    holds()


def test_texts_without_a_failure_run_once_each(tmp_path: Path) -> None:
    one, ran = SmallEngine(small.write_bundle(tmp_path / "1")), list[Row]()
    one.encoder.on_run = ran.extend
    one.engine.encode(["a", "b", "a", "cc", "b"])
    assert sorted(ran) == sorted(map(one.row, ("a", "b", "cc")))


def test_cached_vector_needs_no_model_and_holds_no_batch(tmp_path: Path) -> None:
    one, ran = SmallEngine(small.write_bundle(tmp_path / "1"), cache_bytes=10_000), list[Row]()
    first = one.engine.encode(["a", "b"])
    one.encoder.on_run = ran.extend
    state, other = one.engine.resolve_texts(["a", "cc"])
    assert (state.tokens, state.was_cached, other.tokens > 0, other.was_cached) == (0, True, True, False)
    assert state.cost_s < other.cost_s
    one.engine.run([state, other])
    assert ran == [one.row("cc")]
    (found,) = state.vectors
    assert found is not None
    np.testing.assert_array_equal(found, first[0])
    assert found.base is None


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 40)), max_size=60), st.integers(0, 2_000))
def test_cache_is_bounded_and_forgets_what_was_used_longest_ago(puts: list[tuple[bytes, int]], capacity: int) -> None:
    cache, used = VectorCache(capacity), dict[bytes, int]()  # size of each entry, what was used last at the end
    for key, length in puts:
        if (found := cache.get(key)) is not None:
            used[key] = used.pop(key)
            assert found.nbytes + len(key) + _ENTRY_BYTES == used[key]
        else:
            assert key not in used
        cache.put(key, np.zeros(length, dtype=np.float32))
        size = len(key) + 4 * length + _ENTRY_BYTES
        if key not in used and size <= capacity:
            used[key] = size
            while sum(used.values()) > capacity:
                del used[next(iter(used))]
        assert cache.size_bytes == sum(used.values()) <= capacity


def test_cache_that_is_off_keeps_nothing() -> None:
    cache = VectorCache(0)
    cache.put(b"a", vector(1))
    assert (cache.get(b"a"), cache.size_bytes) == (None, 0)


def test_cache_keeps_a_copy() -> None:
    """A row would hold its whole batch in memory."""
    cache, batch = VectorCache(10_000), np.arange(20, dtype=np.float32).reshape(10, 2)
    cache.put(b"a", batch[3])
    batch[:] = 0
    found = cache.get(b"a")
    assert found is not None
    assert (found.tolist(), found.base) == ([6, 7], None)
