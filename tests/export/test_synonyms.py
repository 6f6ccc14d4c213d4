"""Synonyms from the catalogue: words in the same contexts only; the same seed gives the same text."""

from __future__ import annotations

import random

import pytest

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.synonyms import learn, replaced
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.train.training_data import augmented

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
