"""Texts of a catalogue, their token ids and vectors: equal in memory and on disk, and batched by length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from swiftrec.export.data.lazy import Joined, TextFile
from swiftrec.export.data.text_variants import Texts, TextVariant, write_texts
from swiftrec.export.data.token_store import TokenRows, chunks
from swiftrec.export.models.backbone import Backbone
from swiftrec.export.models.bucketing import by_length, shuffled
from swiftrec.export.models.encoder import load_tokenizer
from tests.export.tiny import dataset, write_checkpoint

_TEXTS = ["river 1", "", "night\u2028 2. war", "garden", "日本"]


def test_texts_on_disk_equal_those_in_memory(tmp_path: Path) -> None:
    held, made = write_texts(dataset(), 3, ["one", "two"]), write_texts(dataset(), 3, ["one", "two"], tmp_path)
    assert all(isinstance(way, TextFile) for way in made.variants)
    assert [*made.all] == [*held.all]
    assert [(p.text, list(p.items)) for p in made.phrases] == [(p.text, list(p.items)) for p in held.phrases]
    made.save(tmp_path)
    result = Texts.load(tmp_path)
    assert [*result.all] == [*held.all]
    assert [(p.text, list(p.items)) for p in result.phrases] == [(p.text, list(p.items)) for p in held.phrases]
    assert (result.others, result.held) == (held.others, held.held)
    assert len({id(p.items) for p in result.phrases}) < len(result.phrases)  # those that ask the same share their items


def test_rows_of_text_variants_hold_their_texts() -> None:
    data = dataset()
    texts = write_texts(data, 3, ["one", "two"])
    every, rows = texts.all, texts.rows
    for n, item in enumerate(data.items):
        assert every[rows.row(TextVariant.FULL, n)] == item.text
        assert every[rows.row(TextVariant.TITLE, n)] == item.title
        words = every[rows.row(TextVariant.TITLE_WORDS, n)]
        assert words
        assert words in item.title.lower()
    for variant in TextVariant:
        assert [*every][rows.of(variant)] == [*texts.variants[variant]]
        assert rows.owners([rows.row(variant, 3), rows.row(variant, 0)]).tolist() == [3, 0]
    assert every[rows.first_phrase] == texts.phrases[0].text
    assert rows.owners([rows.first_phrase, rows.first_phrase + 2]).tolist() == [rows.items, rows.items + 2]


def test_line_files_and_joined_parts_behave_like_lists(tmp_path: Path) -> None:
    joined = Joined([TextFile.write(_TEXTS, tmp_path / "texts"), [], ["x", "y"]])
    expected = [*_TEXTS, "x", "y"]
    assert [joined[n] for n in range(-7, 7)] == [expected[n] for n in range(-7, 7)]
    assert (len(joined), [*joined], joined[1::2], joined[-3:]) == (7, expected, expected[1::2], expected[-3:])
    with pytest.raises(IndexError):
        joined[7]


def test_token_rows_equal_the_tokenizer_and_progress_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    monkeypatch.setattr("swiftrec.export.data.token_store.CHUNK", 2)
    tokenizer = load_tokenizer(tmp_path / "checkpoint", 32)
    steps: list[None] = []
    rows = TokenRows(tokenizer, _TEXTS, lambda: steps.append(None))
    assert [*rows] == tokenizer.encode(_TEXTS)
    assert len(steps) == chunks(_TEXTS) == 3


def unnamed_files() -> int:
    """Files that this process has mapped and that no folder names."""
    return Path("/proc/self/maps").read_text().count("(deleted)")


def test_vectors_too_large_for_memory_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    backbone = Backbone(tmp_path / "checkpoint", load_tokenizer(tmp_path / "checkpoint", 32).encode(_TEXTS), layers=0)
    held = backbone.encode_all()
    before = unnamed_files()
    monkeypatch.setattr("swiftrec.export.models.backbone._MAX_IN_MEMORY", 10)
    steps: list[None] = []
    on_disk = backbone.encode_all(lambda: steps.append(None))
    assert torch.equal(held, on_disk)
    assert len(steps) == backbone.batches == 1
    assert unnamed_files() == before + 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_batches_hold_every_text_once_and_similar_lengths_together() -> None:
    rng, lengths = np.random.default_rng(0), np.random.default_rng(1).integers(1, 60, 1_000)
    for batches in (by_length(lengths, 16), shuffled(rng.permutation(1_000), lengths, 16, rng)):
        assert sorted(n for batch in batches for n in batch) == list(range(1_000))
        assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 12
