"""Words: which items have the words of a text, and which item a text is the title of.

An inverted index with BM25 weights that are computed when it is made (Robertson and Zaragoza, "The Probabilistic
Relevance Framework: BM25 and Beyond", 2009). A word that no item has counts as the known words that share most of its
pairs of near letters, so that a typing error costs little. Words are kept as hashes of 64 bits; every table is mapped.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.sparse import Entries, SparseRows, find_sorted, map_array, merged
from swiftrec.server.errors import BundleError
from swiftrec.server.parts import POSTINGS, SPELLED, WORD_ARRAYS, word_file

Hashes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Rows: TypeAlias = "tuple[tuple[int, ...], tuple[float, ...]]"
"""Places among the known words that a word of a text is or stands for, and the share by which each counts."""

_DTYPES: dict[str, type[np.generic]] = dict(
    zip(WORD_ARRAYS, (np.uint64, np.int32, np.float32, np.int32, np.uint64, np.uint64, np.int32), strict=True)
)
MAX_WORDS = 64  # of a text that are looked up
_MAX_UNKNOWN = 8  # unknown words of a text for which near ones are looked for: one may take a millisecond
_MAX_LETTERS = 64  # of a word that count
_MIN_LETTERS = 4  # of a word that may be a misspelt one
_NEAR, _LEAST = 3, 0.6  # known words that stand for an unknown one, and the share of pairs that they have in common
_CACHED = 65_536  # words whose rows are remembered, and unknown words whose near ones are
_NO_ROWS: Rows = ((), ())
_MAX_CANDIDATES = 20_000  # entries of pairs that are looked at for a word, the rare pairs first
_RECOUNTED = 20  # words that most of the rare pairs have, of which all pairs are counted
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")  # a character is a word where words are not set apart
_IS_CJK = re.compile(f"[{_CJK}]")
_TITLED, _COVERED = 0.5, 0.6  # shares of a title's words that stand in titles, and in one item


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case and without accents, the first 64 letters of each."""
    plain = text.casefold()
    if not plain.isascii():
        plain = "".join(map(_plain, unicodedata.normalize("NFKC", plain).casefold()))
    return [word[:_MAX_LETTERS] for word in _WORD.findall(plain)]


def _plain(letter: str) -> str:
    """A composed letter without its marks. Those of Japanese and Korean are part of the letter: "が" is not "か"."""
    if letter.isascii() or _IS_CJK.match(letter):
        return "" if unicodedata.combining(letter) else letter
    return "".join(part for part in unicodedata.normalize("NFD", letter) if unicodedata.category(part)[0] != "M")


def pairs(word: str) -> set[str]:
    """Letters that stand one or two places apart, with the word's ends marked: most survive a typing error."""
    marked = f"<{word}>"
    return {marked[n] + marked[n + gap] for gap in (1, 2) for n in range(len(marked) - gap)}


def hash_of(word: str) -> int:
    """64 bits that stand for a word."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Words:
    """The index.

    Args:
        terms: hashes of the known words, ascending, [words].
        postings: the items of each word and its BM25 weight there.
        often: how many items have each word, [words]; more than it has postings where these were cut.
        titled: share of the items of each word that have it in their title, [words].
        sizes: number of letter pairs of each word, [words].
        pairs: hashes of the letter pairs, ascending, [pairs].
        spelled: the words of each pair, by their place among `terms`.
        names: hashes of what names exactly one item, ascending, [names].
        named: positions of these items, [names].
    """

    terms: Hashes
    postings: SparseRows
    often: NDArray[np.int32]
    titled: NDArray[np.float32]
    sizes: NDArray[np.int32]
    pairs: Hashes
    spelled: SparseRows
    names: Hashes
    named: NDArray[np.int32]
    _near_words: dict[str, Rows] = field(default_factory=dict, init=False, repr=False)
    _found: dict[str, Rows] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(cls, folder: Path, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: a file is missing or does not fit.
        """
        arrays: dict[str, NDArray[Any]] = {
            name: map_array(folder / word_file(name), dtype) for name, dtype in _DTYPES.items()
        }
        postings = SparseRows.load(folder, POSTINGS, items)
        found = cls(**arrays, postings=postings, spelled=SparseRows.load(folder, SPELLED, len(arrays["terms"])))
        if fault := found._fault(items):
            raise BundleError(f"{folder}/words-{fault}: export it again")
        return found

    def save(self, folder: Path) -> None:
        """Write every table as `words-NAME.npy`."""
        for name in _DTYPES:
            np.save(folder / word_file(name), getattr(self, name), allow_pickle=False)
        self.postings.save(folder, POSTINGS)
        self.spelled.save(folder, SPELLED)

    def rows_of(self, text: str) -> list[Rows]:
        """For each different word of a text the known words that it is or stands for; none for an unknown word."""
        words = [*dict.fromkeys(split_words(text))][:MAX_WORDS]
        rows = self._known(words)
        unknown = [word for word in words if rows[word] is _NO_ROWS and len(word) >= _MIN_LETTERS]
        rows |= {word: self._stand_in(word) for word in unknown[:_MAX_UNKNOWN]}
        return [rows[word] for word in words]

    def named_by(self, text: str) -> int | None:
        """Position of the one item that has this title or text; None if there is none or there are several."""
        name = " ".join(split_words(text))
        place = _find(self.names, [hash_of(name)])[0] if name else -1
        return int(self.named[place]) if place >= 0 else None

    def _known(self, words: Sequence[str]) -> dict[str, Rows]:
        """The row of each word that is known, none for the others; remembered."""
        found = {word: rows for word in words if (rows := self._found.get(word)) is not None}
        if new := [word for word in words if word not in found]:
            places = _find(self.terms, [hash_of(word) for word in new]).tolist()
            rows_of: dict[str, Rows] = dict.fromkeys(new, _NO_ROWS)
            rows_of |= {word: ((n,), (1.0,)) for word, n in zip(new, places, strict=True) if n >= 0}
            _remember(self._found, rows_of)
            found |= rows_of
        return found

    def _stand_in(self, word: str) -> Rows:
        """The known words near an unknown one; remembered."""
        found = self._near_words.get(word)
        if found is None:
            found = self._near(word)
            _remember(self._near_words, {word: found})
        return found

    def _near(self, word: str) -> Rows:
        """Known words that share most letter pairs with an unknown one, and Dice's coefficient of the two sets."""
        pieces = pairs(word)
        places = _find(self.pairs, [hash_of(piece) for piece in pieces])
        places = places[places >= 0]
        rare = self._rare(places)
        if not len(rare):
            return _NO_ROWS
        words, _, _ = self.spelled.gather(rare)
        found, common = np.unique(words, return_counts=True)
        if len(rare) < len(places):
            found = found[np.argsort(-common, kind="stable")[:_RECOUNTED]]
            common = np.array([sum(self.spelled.holds(place, n) for place in places.tolist()) for n in found.tolist()])
        dice = 2 * common / (self.sizes[found] + len(pieces))
        best = np.argsort(-dice, kind="stable")[:_NEAR]
        best = best[dice[best] >= _LEAST]
        return tuple(found[best].tolist()), tuple(np.minimum(dice[best], 1.0).tolist())

    def _rare(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pairs that few words have, as many as may be looked at; all where the vocabulary is small."""
        sizes = self.spelled.starts[places + 1] - self.spelled.starts[places]
        order = np.argsort(sizes, kind="stable")
        return places[order[np.cumsum(sizes[order]) <= _MAX_CANDIDATES]]

    def _fault(self, items: int) -> str:
        """The file that does not fit the others or the catalogue, and why; empty if all fit."""
        words = len(self.terms)
        for name, size, values, wanted, rows in (
            ("terms", words, "words", len(self.postings), "rows of postings"),
            ("often", len(self.often), "numbers", words, "words"),
            ("titled", len(self.titled), "shares", words, "words"),
            ("sizes", len(self.sizes), "sizes", words, "words"),
            ("pairs", len(self.pairs), "pairs", len(self.spelled), "rows of words"),
            ("named", len(self.named), "items", len(self.names), "names"),
        ):
            if size != wanted:
                return f"{name}.npy: its {size} {values} do not fit {wanted} {rows}"
        if (self.often < np.diff(self.postings.starts)).any():
            return "often.npy: words have more items in the index than there are"
        if len(self.named) and not (self.named.min() >= 0 and self.named.max() < items):
            return f"named.npy: its items do not fit a catalogue of {items}"
        return ""


def _remember(cache: dict[str, Rows], rows: dict[str, Rows]) -> None:
    if len(cache) >= _CACHED:
        cache.clear()
    cache.update(rows)


def _find(hashes: Hashes, wanted: Sequence[int]) -> NDArray[np.int64]:
    """Places of `wanted` in ascending hashes; -1 where there is none."""
    places, is_found = find_sorted(hashes, np.array(wanted, dtype=np.uint64))
    return np.where(is_found, places, -1)


class Matches:
    """Texts against the index, each as if it were alone: the items that have their words, and whether each is a title.

    A row is a known word that a word of a text is or stands for: most words have one, an unknown word has some or none.

    Args:
        index: of words.
        texts: maybe empty ones.
        items: size of the catalogue.

    Attributes:
        boosts: BM25 of each text against each item that has a word of it.
    """

    def __init__(self, index: Words, texts: Sequence[str], items: int) -> None:
        self._index, self._items, self._texts = index, items, len(texts)
        words = [index.rows_of(text) for text in texts]
        every = [word for some in words for word in some]
        self._text_of_word = np.arange(self._texts).repeat([len(some) for some in words])
        self._sizes = np.array([len(rows) for rows, _ in every], dtype=np.int64)
        self._rows = np.array([row for rows, _ in every for row in rows], dtype=np.int64)
        self._shares = np.array([share for _, shares in every for share in shares], dtype=np.float64)
        self._text_of_row = self._text_of_word.repeat(self._sizes)
        self._rarity = np.log1p(items / (1.0 + index.often[self._rows]))  # the more, the fewer items have the word
        positions, weights, self._postings = index.postings.gather(self._rows)
        self._positions, self._text_of_posting = positions, self._text_of_row.repeat(self._postings)
        values = weights * self._shares.repeat(self._postings)
        self.boosts = merged(Entries(self._text_of_posting, positions, values), self._texts, items)

    @cached_property
    def is_title(self) -> Flags:
        """Whether each text looks like a title: most of its words stand in titles, and one item has most of them.

        Words are weighed by how rare they are.
        """
        weights = self._shares * self._rarity
        titled = self._sum(weights * self._index.titled[self._rows]) >= _TITLED * self._sum(weights)
        return titled & (self.best >= 0) & (self.cover(self.best)[0] >= _COVERED)

    @cached_property
    def best(self) -> Numbers:
        """Position of the item with the best match for each text, the first one of equals; -1 for none."""
        owners, positions, values = self.boosts
        best, sizes = np.full(self._texts, -1), np.bincount(owners, minlength=self._texts)
        if len(values):
            starts = (np.cumsum(sizes) - sizes)[sizes > 0]
            is_best = np.flatnonzero(values == np.maximum.reduceat(values, starts).repeat(sizes[sizes > 0]))
            best[sizes > 0] = positions[is_best[np.searchsorted(is_best, starts)]]
        return best

    def cover(self, items: Numbers) -> tuple[Floats, Numbers]:
        """Share of the words of each text, weighed by how rare they are, that an item has, and how many these are.

        Words of which the index cannot tell whether the item has them do not count.

        Args:
            items: position of an item for each text.
        """
        has = np.zeros(len(self._rows))
        has[self._row_of_posting[self._positions == items[self._text_of_posting]]] = 1
        found = self._of_words(self._shares * has, 0.0)
        is_told = (found > 0) | (self._of_words(self._is_partial, 0.0) == 0)
        rarity = self._of_words(self._rarity, float(np.log1p(self._items))) * is_told
        whole = np.bincount(self._text_of_word, rarity, self._texts)
        had = np.bincount(self._text_of_word, found * rarity, self._texts)
        return had / np.where(whole, whole, 1), np.bincount(self._text_of_word[found > 0], minlength=self._texts)

    @cached_property
    def _is_partial(self) -> Floats:
        """1 for each row of which the index lacks some items, 0 for the others."""
        return (self._postings < self._index.often[self._rows]).astype(np.float64)

    @cached_property
    def _row_of_posting(self) -> Numbers:
        return np.arange(len(self._rows)).repeat(self._postings)

    def _sum(self, values: Floats) -> Floats:
        """The sum of the rows' values for each text."""
        return np.bincount(self._text_of_row, values, self._texts).astype(np.float64, copy=False)

    def _of_words(self, values: Floats, missing: float) -> Floats:
        """The largest of the rows' values for each word; `missing` for a word without rows."""
        found, is_known = np.full(len(self._sizes), missing), self._sizes > 0
        if len(values):
            found[is_known] = np.maximum.reduceat(values, (np.cumsum(self._sizes) - self._sizes)[is_known])
        return found
