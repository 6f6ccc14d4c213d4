"""The index of words: what matches, what a typing error costs, and which item a text is the title of."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.blend.names import same_item_threshold
from swiftrec.export.blend.words import make_words
from swiftrec.server.catalogue.blend import Blend, BlendRow, Scoring, ScoringInput, Weights
from swiftrec.server.catalogue.history import NEVER, Names
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.sparse import SparseRows
from swiftrec.server.catalogue.splitting import split_words
from swiftrec.server.catalogue.words import Matches, TermMatches, Words
from swiftrec.server.errors import BundleError
from tests.peak import peak_of

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
_SEVENTH = np.array([7])


@pytest.fixture(scope="module")
def words() -> Words:
    return make_words(_TITLES, _TEXTS)


def named(words: Words, threshold: float) -> Names:
    """Each item has a sentence vector that is at right angles with the others'."""
    return Names(words, np.eye(len(_TITLES), dtype=np.float32), threshold, _TITLES.__getitem__)


def best(words: Words, text: str) -> int | None:
    result = Matches(words, [text], len(_TITLES)).boosts
    return int(result.positions[np.argmax(result.values)]) if len(result.positions) else None


@pytest.mark.parametrize(
    ("text", "item"),
    [("toy story", 0), ("matrix", 1), ("AMELIE", 2), ("alien", 3), ("horror aliens", 4), ("crime", 5), ("侍", 6)],
)
def test_words_find_their_item(words: Words, text: str, item: int) -> None:
    assert best(words, text) == item


@pytest.mark.parametrize(("text", "item"), [("matirx", 1), ("the matrx", 1), ("toy storry", 0), ("animtion", 0)])
def test_words_with_a_typing_error_find_the_item(words: Words, text: str, item: int) -> None:
    assert best(words, text) == item


def test_similar_word_counts_less_than_the_word_itself(words: Words) -> None:
    exact, near = (Matches(words, [text], len(_TITLES)).boosts.values.max() for text in ("matrix", "matirx"))
    assert 0 < near < exact


@pytest.mark.parametrize("text", ["", "?!", "zzzzzz qqqqqq", "x"])
def test_unknown_words_match_no_item(words: Words, text: str) -> None:
    assert best(words, text) is None


def test_title_resolves_to_its_item_with_and_without_brackets_and_so_does_a_full_text(words: Words) -> None:
    names = Names(words, np.empty((len(_TITLES), 0), np.float32), NEVER, _TITLES.__getitem__)
    assert [names.by_name(title) for title in _TITLES] == list(range(len(_TITLES)))
    assert [names.by_name(text) for text in _TEXTS] == list(range(len(_TITLES)))
    assert names.by_name("toy story") == 0
    assert names.by_name("toy") is None


@pytest.mark.parametrize(
    ("text", "is_title"),
    [("toy story", True), ("the matirx", True), ("horror", False), ("animation action", False), ("qqqq", False)],
)
def test_text_with_the_words_of_a_title_counts_as_it(words: Words, text: str, *, is_title: bool) -> None:
    assert Matches(words, [text], len(_TITLES)).is_title.tolist() == [is_title]


def test_title_of_two_items_is_ambiguous_and_a_full_title_wins_over_a_short_one() -> None:
    words = make_words(["Heat (1986)", "Heat (1995)", "Alien", "Alien (1979)", "Alien"], ["a", "b", "c", "d", "e"])
    names = Names(words, np.empty((5, 0), np.float32), NEVER, _TITLES.__getitem__)
    assert names.by_name("Heat") is None
    assert names.by_name("heat 1995") == 1
    assert names.by_name("alien") is None
    assert names.by_name("Alien (1979)") == 3


@pytest.mark.parametrize("entries", [7, 10**6])
def test_frequent_word_keeps_the_items_with_the_highest_weights(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.blend.words.MAX_POSTINGS", 5)
    monkeypatch.setattr("swiftrec.export.blend.words._BLOCK_ENTRIES", entries)
    random = np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in random.integers(0, 9, random.integers(1, 12))) for _ in range(40)]
    made = make_words([""] * 40, texts)
    lengths = np.array([len(text.split()) for text in texts])
    for word in range(9):
        count = np.array([text.split().count(f"w{word}") for text in texts])
        often = np.count_nonzero(count)
        rarity = np.log1p((40 - often + 0.5) / (often + 0.5))
        bm25 = rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
        expected = np.sort(np.argsort(-bm25, kind="stable")[: min(5, often)])
        ((row, _),) = [(rows[0], rest) for rows, *rest in made.rows_of(f"w{word}")]
        part = slice(made.postings.starts[row], made.postings.starts[row + 1])
        positions, weights = made.postings.positions[part], made.postings.weights[part]
        assert positions.tolist() == expected.tolist()
        assert weights == pytest.approx(bm25[expected], abs=1e-5)


def test_index_is_made_with_little_memory_per_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swiftrec.export.blend.words._BLOCK_ENTRIES", 10_000)
    random, size = np.random.default_rng(0), 1_000
    texts = [" ".join(f"w{n}x" for n in random.permutation(size)[:100]) for _ in range(size)]
    assert peak_of(lambda: make_words(["title"] * size, texts)) < 40 * size * 100


def test_long_title_costs_memory_for_its_length_only() -> None:
    titles = ["word " * 8_000, *(f"title {n}" for n in range(1_999))]
    vectors = np.eye(2_000, 4, dtype=np.float32)
    assert peak_of(lambda: same_item_threshold(vectors, vectors, titles, 0)) < 40_000_000


def test_text_resolves_to_an_item_only_above_the_threshold(words: Words) -> None:
    near = (np.eye(len(_TITLES))[1] * 0.9).astype(np.float32)
    assert named(words, 0.8).by_meaning("matrx", near) == 1
    assert named(words, 0.95).by_meaning("matrx", near) is None
    assert named(words, 0.95).by_meaning("the matrx", near) == 1  # by words
    assert named(words, 0.8).by_meaning("action of the matrx kind", near) is None  # a description
    assert named(words, 0.8).by_meaning("nothing known", near) is None


def test_threshold_is_above_the_similarity_of_titles_of_other_items() -> None:
    items = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    assert same_item_threshold(items, items, ["a", "b", "c"], 0) == pytest.approx(0.8)
    assert same_item_threshold(items, items, ["a", "a", "c"], 0) == pytest.approx(0.6, abs=0.01)
    assert same_item_threshold(items[:, :0], items[:, :0], ["a", "b", "c"], 0) == NEVER


def test_saved_index_gives_the_same_results(words: Words, tmp_path: Path) -> None:
    words.save(tmp_path)
    result = Words.load(tmp_path, len(_TITLES))
    for text in (*_TITLES, "matirx", "horror"):
        assert (
            Matches(result, [text], len(_TITLES)).boosts.values.tolist()
            == Matches(words, [text], len(_TITLES)).boosts.values.tolist()
        )
        assert result.named_by(text) == words.named_by(text)


def test_index_of_another_catalogue_is_refused(words: Words, tmp_path: Path) -> None:
    words.save(tmp_path)
    with pytest.raises(BundleError, match=r"words-postings-positions\.npy: its entries do not fit 3 columns"):
        Words.load(tmp_path, 3)


@pytest.mark.parametrize("name", ["terms", "often", "titled", "sizes", "pairs", "names", "named"])
@pytest.mark.parametrize("damage", ["missing", "short", "type", "shape"])
def test_damaged_table_of_words_is_refused_by_name(words: Words, tmp_path: Path, name: str, damage: str) -> None:
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("기생충", ["기", "생", "충"]),  # syllables, not the letters that they are made of
        (unicodedata.normalize("NFD", "기생충"), ["기", "생", "충"]),
        ("がか", ["が", "か"]),  # a voiced letter is another one
        (unicodedata.normalize("NFD", "パピプ"), ["パ", "ピ", "プ"]),
        ("ｶﾞﾝﾀﾞﾑ", ["ガ", "ン", "ダ", "ム"]),  # narrow letters
        ("ＡＭÉＬＩＥ \uff11\uff12", ["amelie", "12"]),  # wide ones
        ("Straße ﬁn", ["strasse", "fin"]),
        ("हिन्दी Ελλάδα Ёлка", ["हनद", "ελλαδα", "елка"]),  # marks do not cut words
    ],
)
def test_words_of_every_script_keep_their_letters(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_word_with_truncated_postings_keeps_its_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    titles = [f"Story {n}x{n}" for n in range(20)]
    whole = make_words(titles, titles)
    monkeypatch.setattr("swiftrec.export.blend.words.MAX_POSTINGS", 3)
    cut = make_words(titles, titles)
    matches = [Matches(words, ["story 7x7"], 20) for words in (whole, cut)]
    assert cut.often.tolist() == whole.often.tolist()
    assert len(matches[1].boosts.positions) < len(matches[0].boosts.positions)
    assert [match.cover(_SEVENTH)[0].tolist() for match in matches] == [
        [1],
        [1],
    ]  # whether it has "story" is not known, and does not count
    assert all(match.is_title.all() for match in matches)
    assert [Matches(words, ["7x7 unheard"], 20).cover(_SEVENTH)[0][0] < 1 for words in (whole, cut)] == [True, True]


def test_index_with_a_word_of_more_items_than_the_catalogue_is_refused(words: Words, tmp_path: Path) -> None:
    words.save(tmp_path)
    np.save(tmp_path / "words-often.npy", np.zeros_like(words.often))
    with pytest.raises(BundleError, match=r"words-often\.npy: the index lists more items for a word than have it"):
        Words.load(tmp_path, len(_TITLES))


def test_similar_words_are_searched_only_for_the_first_unknown_words_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    words, texts_, near = make_words(_TITLES, _TEXTS), list[str](), Words._near

    def counted(self: Words, word: str) -> TermMatches:
        texts_.append(word)
        return near(self, word)

    monkeypatch.setattr(Words, "_near", counted)
    text = " ".join(["matirx", *(f"unheard{n}" for n in range(60))])
    assert Matches(words, [text], len(_TITLES)).boosts.positions.tolist() == [1]
    assert texts_ == ["matirx", *(f"unheard{n}" for n in range(7))]
    assert len(words.rows_of(f"toy {text}")) == 62
    assert len(texts_) == 8  # the same ones, and these are remembered


def test_similar_words_are_the_same_if_only_rare_pairs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share is of all pairs, not an estimate from the rare ones."""
    titles = [f"{first}{middle}ation" for first in ("an", "cre", "st", "n", "f") for middle in ("im", "z", "p", "qu")]
    result = []
    for limit in (20_000, 12):
        monkeypatch.setattr("swiftrec.server.catalogue.words._MAX_CANDIDATES", limit)
        result.append([make_words(titles, titles).rows_of(text) for text in ("anmiation", "crezatoin", "fquaton")])
    assert result[0] == result[1]
    assert all(rows for text in result[0] for rows, _ in text)


def test_postings_are_read_once_for_a_text(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, gather = list[int](), SparseRows.gather

    def counted(
        self: SparseRows, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
        if self is words.postings:
            calls.append(len(rows))
        return gather(self, rows)

    monkeypatch.setattr(SparseRows, "gather", counted)
    blend = Blend([BlendRow("none", 1, Weights()), BlendRow("title", 0, Weights(words=2.0))])
    scoring = Scoring(blend, Memory.empty(len(_TITLES)), words, len(_TITLES))
    no_vectors = np.empty((0, 0), np.float32)
    aim = scoring.request_terms(
        ScoringInput(0, np.empty(0, np.int64), no_vectors, "toy story", np.empty(0, np.float32))
    )
    assert calls == [2]
    assert aim.boosts.listed().positions.tolist() == [0]
