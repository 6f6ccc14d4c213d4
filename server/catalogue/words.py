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
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from server.catalogue.sparse import SparseRows, map_array
from server.errors import BundleError
from server.parts import POSTINGS, SPELLED, WORD_ARRAYS, word_file

Hashes = NDArray[np.uint64]
Rows: TypeAlias = "tuple[tuple[int, ...], tuple[float, ...]]"
"""Places among the known words that a word of a text is or stands for, and the share by which each counts."""

MAX_WORDS = 64  # of a text that are looked up
_MAX_UNKNOWN = 8  # unknown words of a text for which near ones are looked for: one may take a millisecond
_MAX_LETTERS = 64  # of a word that count
_MIN_LETTERS = 4  # of a word that may be a misspelt one
_NEAR, _LEAST = 3, 0.6  # known words that stand for an unknown one, and the share of pairs that they have in common
_CACHED = 65_536  # known words, and unknown ones, whose rows are remembered
_NO_ROWS: Rows = ((), ())
_MAX_CANDIDATES = 20_000  # entries of pairs that are looked at for a word, the rare pairs first
_RECOUNTED = 20  # words that most of the rare pairs have, of which all pairs are counted
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")  # a character is a word where words are not set apart
_IS_CJK = re.compile(f"[{_CJK}]")
_LAST_BRACKET = re.compile(r"\s*\([^()]*\)\s*$")


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
        terms = map_array(_path(folder, "terms"), np.uint64)
        found = cls(
            terms=terms,
            postings=SparseRows.load(folder, POSTINGS, items),
            often=map_array(_path(folder, "often"), np.int32),
            titled=map_array(_path(folder, "titled"), np.float32),
            sizes=map_array(_path(folder, "sizes"), np.int32),
            pairs=map_array(_path(folder, "pairs"), np.uint64),
            spelled=SparseRows.load(folder, SPELLED, len(terms)),
            names=map_array(_path(folder, "names"), np.uint64),
            named=map_array(_path(folder, "named"), np.int32),
        )
        if fault := found._fault(items):
            raise BundleError(f"{folder}/words-{fault}: export it again")
        return found

    def save(self, folder: Path) -> None:
        """Write every table as `words-NAME.npy`."""
        for name in WORD_ARRAYS:
            np.save(_path(folder, name), getattr(self, name), allow_pickle=False)
        self.postings.save(folder, POSTINGS)
        self.spelled.save(folder, SPELLED)

    def rows_of(self, text: str) -> list[Rows]:
        """For each different word of a text the known words that it is or stands for; none for an unknown word."""
        words = [*dict.fromkeys(split_words(text))][:MAX_WORDS]
        rows = self._known(words)
        unknown = [word for word in words if word not in rows and len(word) >= _MIN_LETTERS]
        rows |= {word: self._stand_in(word) for word in unknown[:_MAX_UNKNOWN]}
        return [rows.get(word, _NO_ROWS) for word in words]

    def rarity(self, rows: NDArray[np.int64], items: int) -> NDArray[np.float64]:
        """How much words tell, the more the fewer of `items` items have them."""
        return np.log1p(items / (1.0 + self.often[rows]))

    def named_by(self, text: str) -> int | None:
        """Position of the one item that has this title or text; None if there is none or there are several."""
        name = " ".join(split_words(text))
        place = _find(self.names, [hash_of(name)])[0] if name else -1
        return int(self.named[place]) if place >= 0 else None

    def _known(self, words: Sequence[str]) -> dict[str, Rows]:
        """Those of `words` that are known; remembered."""
        found = {word: self._found[word] for word in words if word in self._found}
        new = [word for word in words if word not in found]
        places = _find(self.terms, [hash_of(word) for word in new]).tolist() if new else []
        new_rows: dict[str, Rows] = {word: ((n,), (1.0,)) for word, n in zip(new, places, strict=True) if n >= 0}
        _remember(self._found, new_rows)
        return found | new_rows

    def _stand_in(self, word: str) -> Rows:
        """The known words near an unknown one; remembered."""
        found = self._near_words.get(word)
        if found is None:
            rows, shares = self._near(word)
            found = tuple(rows.tolist()), tuple(shares.tolist())
            _remember(self._near_words, {word: found})
        return found

    def _near(self, word: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Known words that share most letter pairs with an unknown one, and Dice's coefficient of the two sets."""
        pieces = pairs(word)
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
        if len(self.often) != len(self.terms):
            return f"often.npy: its {len(self.often)} numbers do not fit {len(self.terms)} words"
        if (self.often < np.diff(self.postings.starts)).any():
            return "often.npy: words have more items in the index than there are"
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


def _path(folder: Path, name: str) -> Path:
    return folder / word_file(name)


def _remember(cache: dict[str, Rows], rows: dict[str, Rows]) -> None:
    if len(cache) >= _CACHED:
        cache.clear()
    cache.update(rows)


def _find(hashes: Hashes, wanted: Sequence[int]) -> NDArray[np.int64]:
    """Places of `wanted` in ascending hashes; -1 where there is none."""
    if not len(hashes):
        return np.full(len(wanted), -1)
    asked = np.array(wanted, dtype=np.uint64)
    places = np.minimum(np.searchsorted(hashes, asked), len(hashes) - 1)
    return np.where(hashes[places] == asked, places, -1)
