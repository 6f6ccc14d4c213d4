"""The word index: finds the items that have the words of a text, and the item whose title a text is.

An inverted index with precomputed BM25 weights (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25
and Beyond", 2009). An unknown word is replaced by the known words that share most of its letter pairs, which corrects
typing errors. Words are stored as 64-bit hashes; all tables are mapped from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Floats, Mask, Positions
from swiftrec.server.catalogue.sparse import Entries, SparseRows, find_sorted, map_array, merged
from swiftrec.server.catalogue.splitting import Hashes, hash_of, pairs, split_words
from swiftrec.server.errors import BundleError
from swiftrec.server.parts import POSTINGS, SPELLED, WORD_ARRAYS, word_file

TermMatches: TypeAlias = "tuple[tuple[int, ...], tuple[float, ...]]"
"""Indices of the known words that a word of a text matches, and the weight of each."""

_DTYPES: dict[str, type[np.generic]] = dict(
    zip(WORD_ARRAYS, (np.uint64, np.int32, np.float32, np.int32, np.uint64, np.uint64, np.int32), strict=True)
)
MAX_WORDS = 64  # of a text that are looked up
_MAX_UNKNOWN = 8  # unknown words of a text that are corrected; each may take a millisecond
_MIN_LETTERS = 4  # of a word, to be corrected
_MAX_CORRECTIONS, _MIN_SHARED_PAIRS = 3, 0.6  # of an unknown word, and their similarity to it
_MAX_CACHED_WORDS = 65_536  # in each of the two caches
_NO_ROWS: TermMatches = ((), ())
_MAX_CANDIDATES = 20_000  # entries of letter pairs that are read for a word, rare pairs first
_RECOUNTED_WORDS = 20  # words with most of the rare pairs, for which all pairs are counted
_MIN_TITLED, _MIN_COVERED = 0.5, 0.6  # shares of the words of a title that occur in titles, and in one item


@dataclass(frozen=True, slots=True)
class Words:
    """The word index.

    Args:
        terms: hashes of the known words, ascending, [words].
        postings: the items of each word and its BM25 weight there.
        often: number of items with each word, [words]; more than it has postings if these were cut.
        titled: share of the items with each word that have it in their title, [words].
        sizes: number of letter pairs of each word, [words].
        pairs: hashes of the letter pairs, ascending, [pairs].
        spelled: the words with each pair, as indices of `terms`.
        names: hashes of the names of exactly one item, ascending, [names].
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
    _near_words: dict[str, TermMatches] = field(default_factory=dict, init=False, repr=False)
    _found: dict[str, TermMatches] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(cls, folder: Path, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: a file is missing or does not match.
        """
        arrays: dict[str, NDArray[Any]] = {
            name: map_array(folder / word_file(name), dtype) for name, dtype in _DTYPES.items()
        }
        postings = SparseRows.load(folder, POSTINGS, items)
        index = cls(**arrays, postings=postings, spelled=SparseRows.load(folder, SPELLED, len(arrays["terms"])))
        if fault := index._fault(items):
            raise BundleError(f"{folder}/words-{fault}: export it again")
        return index

    @classmethod
    def empty(cls) -> Self:
        """An index without words, which finds nothing."""
        arrays: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in _DTYPES.items()}
        return cls(**arrays, postings=SparseRows.empty(0), spelled=SparseRows.empty(0))

    def save(self, folder: Path) -> None:
        """Write every table as `words-NAME.npy`."""
        for name in _DTYPES:
            np.save(folder / word_file(name), getattr(self, name), allow_pickle=False)
        self.postings.save(folder, POSTINGS)
        self.spelled.save(folder, SPELLED)

    def rows_of(self, text: str) -> list[TermMatches]:
        """The known words that each distinct word of a text matches; none for an unknown word."""
        words = [*dict.fromkeys(split_words(text))][:MAX_WORDS]
        rows = self._known(words)
        unknown = [word for word in words if rows[word] is _NO_ROWS and len(word) >= _MIN_LETTERS]
        rows |= {word: self._stand_in(word) for word in unknown[:_MAX_UNKNOWN]}
        return [rows[word] for word in words]

    def named_by(self, text: str) -> int | None:
        """Position of the only item with this title or text; None if there is none or more than one."""
        name = " ".join(split_words(text))
        index = _find(self.names, [hash_of(name)])[0] if name else -1
        return int(self.named[index]) if index >= 0 else None

    def _known(self, words: Sequence[str]) -> dict[str, TermMatches]:
        """The match of each known word, none for the others; cached."""
        matches = {word: rows for word in words if (rows := self._found.get(word)) is not None}
        if new := [word for word in words if word not in matches]:
            places = _find(self.terms, [hash_of(word) for word in new]).tolist()
            rows_of: dict[str, TermMatches] = dict.fromkeys(new, _NO_ROWS)
            rows_of |= {word: ((n,), (1.0,)) for word, n in zip(new, places, strict=True) if n >= 0}
            _remember(self._found, rows_of)
            matches |= rows_of
        return matches

    def _stand_in(self, word: str) -> TermMatches:
        """The corrections of an unknown word; cached."""
        matches = self._near_words.get(word)
        if matches is None:
            matches = self._near(word)
            _remember(self._near_words, {word: matches})
        return matches

    def _near(self, word: str) -> TermMatches:
        """The known words that share most letter pairs with an unknown one, weighted by Dice's coefficient."""
        pieces = pairs(word)
        places = _find(self.pairs, [hash_of(piece) for piece in pieces])
        places = places[places >= 0]
        rare = self._rare(places)
        if not len(rare):
            return _NO_ROWS
        words, _, _ = self.spelled.gather(rare)
        matches, common = np.unique(words, return_counts=True)
        if len(rare) < len(places):
            matches = matches[np.argsort(-common, kind="stable")[:_RECOUNTED_WORDS]]
            common = np.array(
                [sum(self.spelled.contains(index, n) for index in places.tolist()) for n in matches.tolist()]
            )
        dice = 2 * common / (self.sizes[matches] + len(pieces))
        best = np.argsort(-dice, kind="stable")[:_MAX_CORRECTIONS]
        best = best[dice[best] >= _MIN_SHARED_PAIRS]
        return tuple(matches[best].tolist()), tuple(np.minimum(dice[best], 1.0).tolist())

    def _rare(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rarest pairs, as many as may be read; all if the vocabulary is small."""
        sizes = self.spelled.starts[places + 1] - self.spelled.starts[places]
        order = np.argsort(sizes, kind="stable")
        return places[order[np.cumsum(sizes[order]) <= _MAX_CANDIDATES]]

    def _fault(self, items: int) -> str:
        """The file that does not match the others or the catalogue, and why; empty if all match."""
        words = len(self.terms)
        for name, size, values, required, rows in (
            ("terms", words, "words", len(self.postings), "rows of postings"),
            ("often", len(self.often), "numbers", words, "words"),
            ("titled", len(self.titled), "shares", words, "words"),
            ("sizes", len(self.sizes), "sizes", words, "words"),
            ("pairs", len(self.pairs), "pairs", len(self.spelled), "rows of words"),
            ("named", len(self.named), "items", len(self.names), "names"),
        ):
            if size != required:
                return f"{name}.npy: its {size} {values} do not fit {required} {rows}"
        if (self.often < np.diff(self.postings.starts)).any():
            return "often.npy: the index lists more items for a word than have it"
        if len(self.named) and not (self.named.min() >= 0 and self.named.max() < items):
            return f"named.npy: its items do not fit a catalogue of {items}"
        return ""


def _remember(cache: dict[str, TermMatches], rows: dict[str, TermMatches]) -> None:
    if len(cache) >= _MAX_CACHED_WORDS:
        cache.clear()
    cache.update(rows)


def _find(hashes: Hashes, required: Sequence[int]) -> NDArray[np.int64]:
    """Indices of `required` in ascending hashes; -1 if not found."""
    places, is_found = find_sorted(hashes, np.array(required, dtype=np.uint64))
    return np.where(is_found, places, -1)


class Matches:
    """Matches of independent texts in the index: the items with their words, and whether each is a title.

    A row is a known word that a word of a text matches: most words have one, unknown words several or none.

    Args:
        index: of words.
        texts: may be empty.
        items: number of items in the catalogue.

    Attributes:
        boosts: BM25 of each text and each item with one of its words.
    """

    def __init__(self, index: Words, texts: Sequence[str], items: int) -> None:
        self._index, self._items, self._texts = index, items, len(texts)
        words = [index.rows_of(text) for text in texts]
        every = [word for matches in words for word in matches]
        self._text_of_word = np.arange(self._texts).repeat([len(matches) for matches in words])
        self._sizes = np.array([len(rows) for rows, _ in every], dtype=np.int64)
        self._rows = np.array([row for rows, _ in every for row in rows], dtype=np.int64)
        self._shares = np.array([share for _, shares in every for share in shares], dtype=np.float64)
        self._text_of_row = self._text_of_word.repeat(self._sizes)
        self._rarity = np.log1p(items / (1.0 + index.often[self._rows]))  # larger for words that fewer items have
        positions, weights, self._postings = index.postings.gather(self._rows)
        self._positions, self._text_of_posting = positions, self._text_of_row.repeat(self._postings)
        values = weights * self._shares.repeat(self._postings)
        self.boosts = merged(Entries(self._text_of_posting, positions, values), self._texts, items)

    @cached_property
    def is_title(self) -> Mask:
        """Whether each text looks like a title: most of its words occur in titles, and one item has most of them.

        Words are weighted by rarity.
        """
        weights = self._shares * self._rarity
        titled = self._sum(weights * self._index.titled[self._rows]) >= _MIN_TITLED * self._sum(weights)
        return titled & (self.best >= 0) & (self.cover(self.best)[0] >= _MIN_COVERED)

    @cached_property
    def best(self) -> Positions:
        """Position of the best matching item of each text, the first of equals; -1 if there is none."""
        owners, positions, values = self.boosts
        best, sizes = np.full(self._texts, -1), np.bincount(owners, minlength=self._texts)
        if len(values):
            starts = (np.cumsum(sizes) - sizes)[sizes > 0]
            is_best = np.flatnonzero(values == np.maximum.reduceat(values, starts).repeat(sizes[sizes > 0]))
            best[sizes > 0] = positions[is_best[np.searchsorted(is_best, starts)]]
        return best

    def cover(self, items: Positions) -> tuple[Floats, Positions]:
        """The share of the words of each text, weighted by rarity, that an item has, and their number.

        Words are not counted if the index does not know whether the item has them.

        Args:
            items: position of an item for each text.
        """
        has = np.zeros(len(self._rows))
        has[self._row_of_posting[self._positions == items[self._text_of_posting]]] = 1
        matches = self._of_words(self._shares * has, 0.0)
        is_known = (matches > 0) | (self._of_words(self._is_partial, 0.0) == 0)
        rarity = self._of_words(self._rarity, float(np.log1p(self._items))) * is_known
        total = np.bincount(self._text_of_word, rarity, self._texts)
        had = np.bincount(self._text_of_word, matches * rarity, self._texts)
        return had / np.where(total, total, 1), np.bincount(self._text_of_word[matches > 0], minlength=self._texts)

    @cached_property
    def _is_partial(self) -> Floats:
        """1 for each row whose postings were cut, 0 for the others."""
        return (self._postings < self._index.often[self._rows]).astype(np.float64)

    @cached_property
    def _row_of_posting(self) -> Positions:
        return np.arange(len(self._rows)).repeat(self._postings)

    def _sum(self, values: Floats) -> Floats:
        """The sum of the rows' values for each text."""
        return np.bincount(self._text_of_row, values, self._texts).astype(np.float64, copy=False)

    def _of_words(self, values: Floats, missing: float) -> Floats:
        """The largest of the rows' values for each word; `missing` for a word without rows."""
        matches, is_known = np.full(len(self._sizes), missing), self._sizes > 0
        if len(values):
            matches[is_known] = np.maximum.reduceat(values, (np.cumsum(self._sizes) - self._sizes)[is_known])
        return matches
