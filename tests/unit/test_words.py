"""The index of words: what matches, what a typing error costs, and which item a text is the title of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.blend.names import same_item_threshold
from export.blend.words import make_words
from server.catalogue.match import Match
from server.catalogue.names import NEVER, Names
from server.catalogue.words import Words, split_words
from server.errors import BundleError

_TITLES = [
    "Toy Story (1995)",
    "The Matrix (1999)",
    "Amélie (2001)",
    "Alien (1979)",
    "Aliens (1986)",
    "Heat (1995)",
    "七人の侍",
]
_KINDS = ["Animation", "Action", "Romance", "Horror", "Horror", "Crime", "Drama"]
_TEXTS = [f"{title}. {kind}" for title, kind in zip(_TITLES, _KINDS, strict=True)]


@pytest.fixture(scope="module")
def words() -> Words:
    return make_words(_TITLES, _TEXTS)


def named(words: Words, threshold: float) -> Names:
    """Each item has a sentence vector that is at right angles with the others'."""
    return Names(words, np.eye(len(_TITLES), dtype=np.float32), threshold, _TITLES.__getitem__)


def best(words: Words, text: str) -> int | None:
    found = Match(words, text, len(_TITLES)).boosts
    return int(found.positions[np.argmax(found.values)]) if len(found.positions) else None


@pytest.mark.parametrize(
    ("text", "item"),
    [("toy story", 0), ("matrix", 1), ("AMELIE", 2), ("alien", 3), ("horror aliens", 4), ("crime", 5), ("侍", 6)],
)
def test_words_find_their_item(words: Words, text: str, item: int) -> None:
    assert best(words, text) == item


@pytest.mark.parametrize(("text", "item"), [("matirx", 1), ("the matrx", 1), ("toy storry", 0), ("animtion", 0)])
def test_a_typing_error_finds_the_item_all_the_same(words: Words, text: str, item: int) -> None:
    assert best(words, text) == item


def test_a_near_word_counts_less_than_the_word_itself(words: Words) -> None:
    exact, near = (Match(words, text, len(_TITLES)).boosts.values.max() for text in ("matrix", "matirx"))
    assert 0 < near < exact


@pytest.mark.parametrize("text", ["", "?!", "zzzzzz qqqqqq", "x"])
def test_what_nothing_has_matches_nothing(words: Words, text: str) -> None:
    assert best(words, text) is None


def test_a_title_names_its_item_with_and_without_the_bracket_and_a_whole_text_does(words: Words) -> None:
    names = Names(words, np.empty((len(_TITLES), 0), np.float32), NEVER, _TITLES.__getitem__)
    assert [names.by_name(title) for title in _TITLES] == list(range(len(_TITLES)))
    assert [names.by_name(text) for text in _TEXTS] == list(range(len(_TITLES)))
    assert names.by_name("toy story") == 0
    assert names.by_name("toy") is None


@pytest.mark.parametrize(
    ("text", "is_title"),
    [("toy story", True), ("the matirx", True), ("horror", False), ("animation action", False), ("qqqq", False)],
)
def test_a_text_whose_words_stand_in_titles_is_one(words: Words, text: str, *, is_title: bool) -> None:
    assert Match(words, text, len(_TITLES)).is_title == is_title


def test_a_title_of_two_items_names_neither_and_a_whole_title_goes_before_a_short_one() -> None:
    words = make_words(["Heat (1986)", "Heat (1995)", "Alien", "Alien (1979)", "Alien"], ["a", "b", "c", "d", "e"])
    names = Names(words, np.empty((5, 0), np.float32), NEVER, _TITLES.__getitem__)
    assert names.by_name("Heat") is None
    assert names.by_name("heat 1995") == 1
    assert names.by_name("alien") is None
    assert names.by_name("Alien (1979)") == 3


def test_a_text_near_an_item_is_that_item_beyond_the_threshold_only(words: Words) -> None:
    near = (np.eye(len(_TITLES))[1] * 0.9).astype(np.float32)
    assert named(words, 0.8).by_meaning("matrx", near) == 1
    assert named(words, 0.95).by_meaning("matrx", near) is None
    assert named(words, 0.95).by_meaning("the matrx", near) == 1  # by words
    assert named(words, 0.8).by_meaning("action of the matrx kind", near) is None  # a description
    assert named(words, 0.8).by_meaning("nothing known", near) is None


def test_the_threshold_is_above_what_titles_of_other_items_reach() -> None:
    items = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    assert same_item_threshold(items, items, ["a", "b", "c"], 0) == pytest.approx(0.8)
    assert same_item_threshold(items, items, ["a", "a", "c"], 0) == pytest.approx(0.6, abs=0.01)
    assert same_item_threshold(items[:, :0], items[:, :0], ["a", "b", "c"], 0) == NEVER


def test_a_saved_index_answers_the_same(words: Words, tmp_path: Path) -> None:
    words.save(tmp_path)
    found = Words.load(tmp_path, len(_TITLES))
    for text in (*_TITLES, "matirx", "horror"):
        assert (
            Match(found, text, len(_TITLES)).boosts.values.tolist()
            == Match(words, text, len(_TITLES)).boosts.values.tolist()
        )
        assert found.named_by(text) == words.named_by(text)


def test_an_index_of_another_catalogue_is_refused(words: Words, tmp_path: Path) -> None:
    words.save(tmp_path)
    with pytest.raises(BundleError, match=r"words-postings-positions\.npy: its entries do not fit 3 columns"):
        Words.load(tmp_path, 3)


@pytest.mark.parametrize("name", ["terms", "often", "titled", "sizes", "pairs", "names", "named"])
@pytest.mark.parametrize("damage", ["missing", "short", "type", "shape"])
def test_a_table_of_words_that_is_none_is_refused_by_name(words: Words, tmp_path: Path, name: str, damage: str) -> None:
    words.save(tmp_path)
    path = tmp_path / f"words-{name}.npy"
    array = np.load(path)
    path.unlink()
    if damage != "missing":
        changed = {"short": array[:-1], "type": array.astype(np.complex64), "shape": array[None]}
        np.save(path, changed[damage])
    # `names` is compared with `named`, and the words by pair with `terms`: one of two that do not fit is named.
    other = {"names": "named", "terms": "spelled-positions"}.get(name, name) if damage == "short" else name
    with pytest.raises(BundleError, match=rf"words-({name}|{other})\.npy: .*: export it again"):
        Words.load(tmp_path, len(_TITLES))


def test_words_are_cut_without_case_accents_and_punctuation() -> None:
    assert split_words("L'Été, à Tōkyō: 七人の侍 (2nd_ed)") == ["l", "ete", "a", "tokyo", *"七人の侍", "2nd", "ed"]
