"""Words: which items have the words of a text, and which item a text is the title of.

An inverted index with BM25 weights that are computed when it is made (Robertson and Zaragoza, "The Probabilistic
Relevance Framework: BM25 and Beyond", 2009). A word that no item has counts as the known words that share most of its
pairs of near letters, so that a typing error costs little. Words are kept as hashes of 64 bits; every table is mapped.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.catalogue.sparse import Boosts, Entries, SparseRows, map_array, summed
from server.errors import BundleError

Hashes = NDArray[np.uint64]
Rows: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.float64] | None]"
"""Places of words among the known ones, and the share by which each counts, less than 1 for a near word; None: 1."""

_TITLED, _COVERED = 0.5, 0.6  # shares of a title's words that stand in titles, and in one item
MAX_WORDS = 64  # of a text that are looked up
_MAX_LETTERS = 64  # of a word that count
_MIN_LETTERS = 4  # of a word that may be a misspelt one
_NEAR, _LEAST = 3, 0.6  # known words that stand for an unknown one, and the share of pairs that they have in common
_CACHED, _CACHED_TEXTS = 65_536, 1_024  # words and texts whose rows are remembered
_CACHED_LETTERS = 512  # of a text that is
_ROMAN, _SHORT = frozenset(("ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x")), 2
_MAX_CANDIDATES = 20_000  # entries of pairs that are looked at for a word, the rare pairs first
_RECOUNTED = 20  # words that most of the rare pairs have, of which all pairs are counted
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")  # a character is a word where words are not set apart
_LAST_BRACKET = re.compile(r"\s*\([^()]*\)\s*$")


def split_words(text: str) -> list[str]:
    """The words of a text, in lower case and without accents, the first 64 letters of each."""
    plain = text.casefold()
    if not plain.isascii():
        plain = "".join(letter for letter in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(letter))
    return [word[:_MAX_LETTERS] for word in _WORD.findall(plain)]


def pairs(word: str) -> set[str]:
    """Letters that stand one or two places apart, with the word's ends marked: most survive a typing error."""
    marked = f"<{word}>"
    return {marked[n] + marked[n + gap] for gap in (1, 2) for n in range(len(marked) - gap)}


def hash_of(word: str) -> int:
    """64 bits that stand for a word."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def names_of(title: str) -> list[str]:
    """What a text may be to name an item of this title: its words, with and without a bracket at the end."""
    names = [" ".join(split_words(title)), " ".join(split_words(_LAST_BRACKET.sub("", title)))]
    return [name for name in dict.fromkeys(names) if name]


@dataclass(frozen=True, slots=True)
class Words:
    """The index.

    Args:
        terms: hashes of the known words, ascending, [words].
        postings: the items of each word and its BM25 weight there.
        titled: share of the items of each word that have it in their title, [words].
        sizes: number of letter pairs of each word, [words].
        pairs: hashes of the letter pairs, ascending, [pairs].
        spelled: the words of each pair, by their place among `terms`.
        names: hashes of what names exactly one item, ascending, [names].
        named: positions of these items, [names].
    """

    terms: Hashes
    postings: SparseRows
    titled: NDArray[np.float32]
    sizes: NDArray[np.int32]
    pairs: Hashes
    spelled: SparseRows
    names: Hashes
    named: NDArray[np.int32]
    _cache: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict, init=False, repr=False)
    _texts: dict[str, Rows] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def load(cls, folder: Path, items: int) -> Self:
        """Map what `save` wrote.

        Raises:
            BundleError: a file is missing or does not fit.
        """
        terms = map_array(_path(folder, "terms"), np.uint64)
        found = cls(
            terms=terms,
            postings=SparseRows.load(folder, "words-postings", items),
            titled=map_array(_path(folder, "titled"), np.float32),
            sizes=map_array(_path(folder, "sizes"), np.int32),
            pairs=map_array(_path(folder, "pairs"), np.uint64),
            spelled=SparseRows.load(folder, "words-spelled", len(terms)),
            names=map_array(_path(folder, "names"), np.uint64),
            named=map_array(_path(folder, "named"), np.int32),
        )
        if fault := found._fault(items):
            raise BundleError(f"{folder}/words-{fault}: export it again")
        return found

    def save(self, folder: Path) -> None:
        """Write every table as `words-NAME.npy`."""
        for name in _ARRAYS:
            np.save(_path(folder, name), getattr(self, name), allow_pickle=False)
        self.postings.save(folder, "words-postings")
        self.spelled.save(folder, "words-spelled")

    def match(self, text: str, items: int) -> Boosts:
        """BM25 of a text against the items that have a word of it; `items` is the size of the catalogue."""
        return summed([self.postings_of(text)], items).listed()

    def postings_of(self, text: str) -> Entries:
        """The items that have a word of a text, and its BM25 there, one word after the other."""
        rows, shares = self._rows(text)
        positions, weights, sizes = self.postings.gather(rows)
        return positions, weights if shares is None else weights * shares.repeat(sizes)

    def is_title(self, text: str, items: int) -> bool:
        """Whether a text looks like a title: most of its words stand in titles, and one of `items` has most of them.

        Words are weighed by how rare they are.
        """
        rows, shares = self._rows(text)
        if not len(rows):
            return False
        often = self.postings.starts[rows + 1] - self.postings.starts[rows]
        weights = np.log1p(items / (often + 1))
        if shares is not None:
            weights *= shares
        if weights @ self.titled[rows] < _TITLED * weights.sum():
            return False
        found = self.match(text, items)
        best = int(found.positions[np.argmax(found.values)])
        return self.cover(text, best, items)[0] >= _COVERED

    def cover(self, text: str, item: int, items: int) -> tuple[float, int]:
        """Share of a text's words, weighed by how rare they are, that an item has, and how many these are."""
        had, whole, count = 0.0, 0.0, 0
        for word in [*dict.fromkeys(split_words(text))][:MAX_WORDS]:
            places, counted = self._looked_up([word])
            rows, shares = places.tolist(), [1.0] * len(places) if counted is None else counted.tolist()
            rarity = [math.log1p(items / (1 + self.postings.size_of(row))) for row in rows] or [math.log1p(items)]
            found = [share for row, share in zip(rows, shares, strict=True) if self.postings.holds(row, item)]
            whole += max(rarity)
            had += max(found, default=0.0) * max(rarity)
            count += bool(found)
        return had / whole if whole else 0.0, count

    def numbered_alike(self, text: str, item: int) -> bool:
        """Whether an item has every short number of a text, Roman ones too: "Rocky 3" is not "Rocky"."""
        numbers = [w for w in split_words(text)[:MAX_WORDS] if w in _ROMAN or (w.isdecimal() and len(w) <= _SHORT)]
        places = _find(self.terms, [hash_of(number) for number in numbers])
        return all(place >= 0 and self.postings.holds(place, item) for place in places.tolist())

    def named_by(self, text: str) -> int | None:
        """Position of the one item that has this title or text; None if there is none or there are several."""
        name = " ".join(split_words(text))
        place = _find(self.names, [hash_of(name)])[0] if name else -1
        return int(self.named[place]) if place >= 0 else None

    def _rows(self, text: str) -> Rows:
        """The known words that a text's words are or stand for; remembered for the texts that came last."""
        found = self._texts.get(text)
        if found is None:
            found = self._looked_up([*dict.fromkeys(split_words(text))][:MAX_WORDS])
            if len(self._texts) >= _CACHED_TEXTS:
                self._texts.clear()
            if len(text) <= _CACHED_LETTERS:
                self._texts[text] = found
        return found

    def _looked_up(self, words: Sequence[str]) -> Rows:
        rows, shares = list[int](), list[float]()
        for word in words:
            found = self._cache.get(word)
            if found is None:
                if len(self._cache) >= _CACHED:
                    self._cache.clear()
                found = self._cache[word] = self._row(word)
            rows += found[0]
            shares += found[1]
        return np.array(rows, dtype=np.int64), None if min(shares, default=1.0) == 1 else np.array(shares)

    def _row(self, word: str) -> tuple[list[int], list[float]]:
        """Place and share of a known word, or of the known words that stand for an unknown one."""
        place = int(_find(self.terms, [hash_of(word)])[0])
        if place >= 0:
            return [place], [1.0]
        rows, shares = self._near(word)
        return rows.tolist(), shares.tolist()

    def _near(self, word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Known words that share most letter pairs with an unknown one, and Dice's coefficient of the two sets."""
        pieces = pairs(word) if len(word) >= _MIN_LETTERS else set()
        places = _find(self.pairs, [hash_of(piece) for piece in pieces])
        places = places[places >= 0]
        rare = self._rare(places)
        if not len(rare):
            return np.empty(0, np.int64), np.empty(0)
        words, _, _ = self.spelled.gather(rare)
        found, common = np.unique(words, return_counts=True)
        if len(rare) < len(places):
            found = found[np.argsort(-common, kind="stable")[:_RECOUNTED]]
            common = np.array([sum(self.spelled.holds(place, n) for place in places.tolist()) for n in found.tolist()])
        dice = 2 * common / (self.sizes[found] + len(pieces))
        best = np.argsort(-dice, kind="stable")[:_NEAR]
        best = best[dice[best] >= _LEAST]
        return found[best].astype(np.int64), np.minimum(dice[best], 1.0)

    def _rare(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pairs that few words have, as many as may be looked at; all where the vocabulary is small."""
        sizes = self.spelled.starts[places + 1] - self.spelled.starts[places]
        order = np.argsort(sizes, kind="stable")
        return places[order[np.cumsum(sizes[order]) <= _MAX_CANDIDATES]]

    def _fault(self, items: int) -> str:
        """The file that does not fit the others or the catalogue, and why; empty if all fit."""
        if len(self.terms) != len(self.postings):
            return f"terms.npy: its {len(self.terms)} words do not fit {len(self.postings)} rows of postings"
        if len(self.titled) != len(self.terms):
            return f"titled.npy: its {len(self.titled)} shares do not fit {len(self.terms)} words"
        if len(self.sizes) != len(self.terms):
            return f"sizes.npy: its {len(self.sizes)} sizes do not fit {len(self.terms)} words"
        if len(self.pairs) != len(self.spelled):
            return f"pairs.npy: its {len(self.pairs)} pairs do not fit {len(self.spelled)} rows of words"
        if len(self.named) != len(self.names):
            return f"named.npy: its {len(self.named)} items do not fit {len(self.names)} names"
        if len(self.named) and not (self.named.min() >= 0 and self.named.max() < items):
            return f"named.npy: its items do not fit a catalogue of {items}"
        return ""


_ARRAYS = ("terms", "titled", "sizes", "pairs", "names", "named")


def _path(folder: Path, name: str) -> Path:
    return folder / f"words-{name}.npy"


def _find(hashes: Hashes, wanted: Sequence[int]) -> NDArray[np.int64]:
    """Places of `wanted` in ascending hashes; -1 where there is none."""
    if not len(hashes):
        return np.full(len(wanted), -1)
    asked = np.array(wanted, dtype=np.uint64)
    places = np.minimum(np.searchsorted(hashes, asked), len(hashes) - 1)
    return np.where(hashes[places] == asked, places, -1)
