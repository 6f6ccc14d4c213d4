"""Corrupted texts: noise, fillers and synonyms; the same seed gives the same text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Vocabulary
from tokenizers.models import WordLevel

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.synonyms import learn, replaced
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.train.distillation_data import DistillationData, frequent_words
from swiftrec.export.train.training_data import augmented
from swiftrec.server.models.tokenizer import Tokenizer

_THINGS, _COLOURS = ("river", "garden", "engine", "letter"), ("crimson", "scarlet")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Film and movie occur in the same contexts, and so do two colours; other words have other contexts."""
    pairs = [
        f"the {colour} {kind} about a {thing} {n}"
        for n in range(8)
        for colour in _COLOURS
        for kind in ("Film", "Movie")
        for thing in _THINGS
    ]
    return [*pairs, *(f"bread with butter {n}" for n in range(8))]


def test_words_in_the_same_contexts_are_synonyms(texts: list[str]) -> None:
    synonyms = learn(texts, len(texts))
    assert synonyms["film"][0] == "movie"
    assert synonyms["scarlet"][0] == "crimson"
    assert set(synonyms["river"]) == {"garden", "engine", "letter"}
    assert not {"bread", "butter", "the"} & synonyms.keys()
    assert learn(texts[:-8], len(texts) - 8)["film"] == synonyms["film"]


def test_rare_words_and_tiny_catalogues_have_none(texts: list[str]) -> None:
    assert learn(texts[:3], 3) == {}
    assert learn([], 0) == {}


def test_synonyms_of_a_large_catalogue_use_a_sample(texts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.data.synonyms._MAX_TEXTS", 16)
    assert learn(texts, len(texts)).keys() < learn(texts[::9], 1).keys() | {"film", "movie", *_THINGS, *_COLOURS}


def test_share_of_the_words_is_replaced_and_capitals_stay(texts: list[str]) -> None:
    synonyms = {"film": ("movie",)}
    assert replaced("Film, a film. Filming", synonyms, 1.0, random.Random(0)) == "Movie, a movie. Filming"
    assert replaced("Film, a film", synonyms, 0.0, random.Random(0)) == "Film, a film"
    replacements = replaced("film " * 200, synonyms, 0.25, random.Random(0)).count("movie")
    assert 30 < replacements < 70


def test_corrupted_copies_have_synonyms_only_with_the_flag(texts: list[str]) -> None:
    known = Texts([texts, texts], [])
    plain, exchanged, again = (augmented(known, 2, 7, share).variants for share in (0.0, 0.5, 0.5))
    assert exchanged == again
    assert [*exchanged[:2]] == [texts, texts]
    crimson = sum("scarlet" in text for text, before in zip(exchanged[2], texts, strict=True) if "crimson" in before)
    assert crimson > 5
    assert not any("scarlet" in text for text, before in zip(plain[2], texts, strict=True) if "crimson" in before)


def test_synonyms_without_augment_are_refused() -> None:
    with pytest.raises(ValueError, match="synonyms needs copies"):
        ExportSettings(_cli_parse_args=["--synonyms", "0.2"])


def test_noise_is_deterministic_and_always_changes_the_text() -> None:
    texts = ["red lamp", "black stone", "The Shawshank Redemption (1994)", "me", ""]
    noisy = [corrupt(text, random.Random(n)) for n, text in enumerate(texts)]
    assert noisy == [corrupt(text, random.Random(n)) for n, text in enumerate(texts)]
    assert all(new != old for new, old in zip(noisy[:-2], texts[:-2], strict=True))
    assert noisy[-2:] == ["me", ""]
    assert len({corrupt("The Shawshank Redemption (1994)", random.Random(n)) for n in range(50)}) > 30


def test_fillers_are_frequent_words_without_information(tmp_path: Path) -> None:
    """No word of a text, no negation and nothing that goes with one, also where no phrase has them."""
    words = ["[PAD]", "house", "drama", "not", "no", "without", "except", "and", "also", "##ing"]
    vocabulary = Vocabulary(WordLevel({word: n for n, word in enumerate(words)}, unk_token="[PAD]"))
    vocabulary.save(str(tmp_path / "tokenizer.json"))
    assert frequent_words(tmp_path / "tokenizer.json", ["A Drama"]) == ["house", "also"]
    assert "drama" in frequent_words(tmp_path / "tokenizer.json", [])  # control


def test_fillers_are_inserted_only_into_noisy_texts() -> None:
    texts = ["river garden"] * 40
    seen: list[str] = []

    class Spy(Tokenizer):
        def encode(self, texts_: Sequence[str]) -> list[list[int]]:
            seen.extend(texts_)
            return [[0]] * len(texts_)

    spy = Spy.__new__(Spy)
    data = DistillationData(
        texts, [[0]] * 40, spy, torch.ones(40, 4), torch.ones(3, 4), seed=1, fillers=["also", "some"]
    )
    data.rows_of_epoch(0, 1.0)
    filled = [text for text in seen if {"also", "some"} & set(text.split())]
    assert 20 < len(filled) < 40
    assert all(len(text.split()) <= 2 + 6 for text in seen)
    seen.clear()
    replace(data, fillers=()).rows_of_epoch(0, 1.0)
    assert not any({"also", "some"} & set(text.split()) for text in seen)
