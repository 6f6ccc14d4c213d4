"""The catalogue's index of words, made from titles and texts."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from swiftrec.server.arrays import Mask
from swiftrec.server.catalogue.sparse import SparseRows
from swiftrec.server.catalogue.splitting import Hashes, hash_of, pairs, split_words
from swiftrec.server.catalogue.words import Words

MAX_POSTINGS = 4_000  # items of a word, those with the largest weights: more frequent words tell little
_SATURATION, _LENGTH = 1.2, 0.75  # k1 and b of BM25
_TITLE_COUNT = 1  # by which a word of the title counts more
_BLOCK_ENTRIES = 1_000_000
_AMBIGUOUS = -1
_LAST_BRACKET = re.compile(r"\s*\([^()]*\)\s*$")


def make_words(titles: Sequence[str], texts: Sequence[str]) -> Words:
    """Index items by the words of their titles and texts, [items] each.

    Besides the index this needs about 24 bytes for each different word of each text, and 150 for each word of the
    catalogue.
    """
    counted = _Counted.of(titles, texts)
    hashes = np.array([hash_of(word) for word in counted.vocabulary], dtype=np.uint64)
    order = np.argsort(hashes)
    by_word = counted.by_word(np.argsort(order).astype(np.int32))
    often = np.diff(by_word.indptr)
    known = [*counted.vocabulary]
    pieces, spelled, sizes = _spelling([known[n] for n in order.tolist()])
    names, named = _naming(titles, texts)
    return Words(
        terms=hashes[order],
        postings=_postings(by_word, np.array(counted.lengths)),
        often=often.astype(np.int32),
        titled=(np.array(counted.titled)[order] / np.maximum(often, 1)).astype(np.float32),
        sizes=sizes,
        pairs=pieces,
        spelled=spelled,
        names=names,
        named=named,
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counts of words by item: `words` and `counts` of one item after the other, which end at `ends`.

    `lengths` [items] are the numbers of words, `titled` [words] those of the items with the word in their title.
    """

    vocabulary: dict[str, int]
    words: array[int]
    counts: array[float]
    ends: array[int]
    lengths: array[float]
    titled: array[int]

    @classmethod
    def of(cls, titles: Sequence[str], texts: Sequence[str]) -> Self:
        counted = cls({}, array("i"), array("f"), array("q", [0]), array("d"), array("q"))
        for title, text in zip(titles, texts, strict=True):
            counted._add(split_words(title), split_words(text))
        return counted

    def _add(self, title: list[str], text: list[str]) -> None:
        words, in_title = Counter(text + _TITLE_COUNT * title), {*title}
        for word, count in words.items():
            number = self.vocabulary.setdefault(word, len(self.vocabulary))
            if number == len(self.titled):
                self.titled.append(0)
            self.titled[number] += word in in_title
            self.words.append(number)
            self.counts.append(count)
        self.ends.append(len(self.words))
        self.lengths.append(words.total())

    def by_word(self, column: NDArray[np.int32]) -> sparse.csc_array:
        """The counts as columns of words, word w in `column[w]`; items ascend in each."""
        columns = column[np.array(self.words, dtype=np.int32)]
        shape = len(self.lengths), len(column)
        return sparse.csr_array((np.array(self.counts, np.float32), columns, np.array(self.ends)), shape=shape).tocsc()


def _postings(counts: sparse.csc_array, lengths: NDArray[np.float64]) -> SparseRows:
    """BM25 of each word in each item, from `counts` [items, words]."""
    often = np.diff(counts.indptr)
    rarity = np.log1p((len(lengths) - often + 0.5) / (often + 0.5))
    share = 1 - _LENGTH + _LENGTH * lengths / max(1.0, float(lengths.mean() if len(lengths) else 1.0))
    starts = np.concatenate([[0], np.cumsum(np.minimum(often, MAX_POSTINGS), dtype=np.int64)])
    positions, weights = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    for first, last in _blocks(counts.indptr):
        part = slice(counts.indptr[first], counts.indptr[last])
        items, count = counts.indices[part], counts.data[part].astype(np.float64)
        row = rarity[first:last].repeat(often[first:last])
        bm25 = row * count * (_SATURATION + 1) / (count + _SATURATION * share[items])
        kept = _heaviest(bm25, counts.indptr[first : last + 1] - part.start)
        positions[starts[first] : starts[last]] = items[kept]
        weights[starts[first] : starts[last]] = bm25[kept]
    return SparseRows(starts, positions, weights)


def _blocks(starts: NDArray[np.integer[Any]]) -> Iterator[tuple[int, int]]:
    """Blocks of words, as the first and the one behind the last."""
    first, words = 0, len(starts) - 1
    while first < words:
        last = int(np.searchsorted(starts, starts[first] + _BLOCK_ENTRIES, side="right")) - 1
        yield first, (first := min(words, max(first + 1, last)))


def _heaviest(weights: NDArray[np.float64], starts: NDArray[np.integer[Any]]) -> Mask:
    """Whether each entry is kept: those of a row are all, or the `MAX_POSTINGS` largest, the first of equal ones."""
    kept = np.ones(len(weights), dtype=bool)
    for row in np.flatnonzero(np.diff(starts) > MAX_POSTINGS).tolist():
        begin, end = starts[row], starts[row + 1]
        order = np.argsort(-weights[begin:end], kind="stable")
        kept[begin + order[MAX_POSTINGS:]] = False
    return kept


def _spelling(words: Sequence[str]) -> tuple[Hashes, SparseRows, NDArray[np.int32]]:
    """Hashes of letter pairs, the positions in `words` that have each, and how many pairs each word has."""
    pieces: dict[str, array[int]] = {}
    sizes = np.zeros(len(words), np.int32)
    for number, word in enumerate(words):
        own = pairs(word)
        sizes[number] = len(own)
        for piece in own:
            pieces.setdefault(piece, array("i")).append(number)
    hashes = np.array([hash_of(piece) for piece in pieces], dtype=np.uint64)
    order = np.argsort(hashes)
    rows = [*pieces.values()]
    ordered = [np.array(rows[n], dtype=np.int32) for n in order.tolist()]
    starts = np.cumsum([0, *map(len, ordered)], dtype=np.int64)
    flat = np.concatenate([np.empty(0, np.int32), *ordered])
    return hashes[order], SparseRows(starts, flat, np.ones(len(flat), np.float32)), sizes


def _naming(titles: Sequence[str], texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int32]]:
    """Names of exactly one item: whole titles and texts first, then titles without a bracket at the end."""
    whole, short = (array("Q"), array("i")), (array("Q"), array("i"))
    for item, (title, text) in enumerate(zip(titles, texts, strict=True)):
        names = _names_of(title)
        for claims, own in ((whole, {" ".join(split_words(text)), *names[:1]} - {""}), (short, {*names[1:]})):
            claims[0].extend(map(hash_of, own))
            claims[1].extend([item] * len(own))
    (keys, items), (shorter, shorter_items) = _claimed(*whole), _claimed(*short)
    free = ~np.isin(shorter, keys)
    keys, items = np.concatenate([keys, shorter[free]]), np.concatenate([items, shorter_items[free]])
    order = np.argsort(keys)
    order = order[items[order] != _AMBIGUOUS]
    return keys[order], items[order]


def _names_of(title: str) -> list[str]:
    """The names of an item with this title: its words, with and without a bracket at the end."""
    names = [" ".join(split_words(title)), " ".join(split_words(_LAST_BRACKET.sub("", title)))]
    return [name for name in dict.fromkeys(names) if name]


def _claimed(names: array[int], items: array[int]) -> tuple[Hashes, NDArray[np.int32]]:
    """Each name once, ascending, and its item; `_AMBIGUOUS` if several items have it."""
    keys, claimed = np.array(names, dtype=np.uint64), np.array(items, dtype=np.int32)
    order = np.lexsort((claimed, keys))
    keys, claimed = keys[order], claimed[order]
    first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])
    last = np.append(first[1:], len(keys))[: len(first)] - 1
    return keys[first], np.where(claimed[first] == claimed[last], claimed[first], np.int32(_AMBIGUOUS))
