"""The catalogue's index of words, made from titles and texts."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from server.catalogue.sparse import SparseRows
from server.catalogue.words import Hashes, Words, hash_of, names_of, pairs, split_words

MAX_POSTINGS = 4_000  # items of a word, those where it weighs most: words of more items tell little
_SATURATION, _LENGTH = 1.2, 0.75  # k1 and b of BM25
_TITLE = 1  # times that a word of the title counts beside its place in the text
_AMBIGUOUS = -1


def make_words(titles: Sequence[str], texts: Sequence[str]) -> Words:
    """Index items by the words of their titles and texts, [items] each."""
    vocabulary: dict[str, int] = {}
    rows, items, counts, lengths = array("q"), array("q"), array("d"), array("d")
    for item, (title, text) in enumerate(zip(titles, texts, strict=True)):
        words = Counter(split_words(text) + _TITLE * split_words(title))
        lengths.append(words.total())
        for word, count in words.items():
            rows.append(vocabulary.setdefault(word, len(vocabulary)))
            items.append(item)
            counts.append(count)
    hashes = np.array([hash_of(word) for word in vocabulary], dtype=np.uint64)
    order = np.argsort(hashes)
    place = np.argsort(order)
    often = np.bincount(place[np.array(rows, dtype=np.int64)], minlength=len(order))
    postings = _postings(place[np.array(rows)], np.array(items), np.array(counts), np.array(lengths), len(order))
    pieces, spelled = _spelling(vocabulary, place)
    names, named = _naming(titles, texts)
    return Words(
        terms=hashes[order],
        postings=postings,
        often=often.astype(np.int32),
        titled=_titled(titles, vocabulary, place, often),
        sizes=np.array([len(pairs(word)) for word in vocabulary], dtype=np.int32)[order],
        pairs=pieces,
        spelled=spelled,
        names=names,
        named=named,
    )


def _postings(
    rows: NDArray[np.int64],
    items: NDArray[np.int64],
    counts: NDArray[np.float64],
    lengths: NDArray[np.float64],
    words: int,
) -> SparseRows:
    """BM25 of each word in each item."""
    often = np.bincount(rows, minlength=words)
    rarity = np.log1p((len(lengths) - often + 0.5) / (often + 0.5))
    share = 1 - _LENGTH + _LENGTH * lengths / max(1.0, float(lengths.mean() if len(lengths) else 1.0))
    weights = rarity[rows] * counts * (_SATURATION + 1) / (counts + _SATURATION * share[items])
    order = np.lexsort((items, -weights, rows))
    rank = np.arange(len(order)) - np.searchsorted(rows[order], np.arange(words))[rows[order]]
    best = order[rank < MAX_POSTINGS]
    return SparseRows.of(rows[best], items[best], weights[best], words)


def _titled(
    titles: Sequence[str], vocabulary: Mapping[str, int], place: NDArray[np.int64], items: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Share of each word's `items` (how many have it, [words]) that have it in their title."""
    often = np.zeros(len(place))
    for title in titles:
        for word in set(split_words(title)):
            often[place[vocabulary[word]]] += 1
    return (often / np.maximum(items, 1)).astype(np.float32)


def _spelling(vocabulary: Iterable[str], place: NDArray[np.int64]) -> tuple[Hashes, SparseRows]:
    """Hashes of letter pairs, and the words that have each."""
    pieces: dict[str, array[int]] = {}
    for number, word in enumerate(vocabulary):
        for piece in pairs(word):
            pieces.setdefault(piece, array("q")).append(int(place[number]))
    hashes = np.array([hash_of(piece) for piece in pieces], dtype=np.uint64)
    order = np.argsort(hashes)
    sizes = np.array([len(words) for words in pieces.values()], dtype=np.int64)
    flat = np.concatenate([np.empty(0, np.int64), *(np.array(words) for words in pieces.values())])
    rows = np.repeat(np.argsort(order), sizes)
    spelled = SparseRows.of(rows, flat, np.ones(len(flat)), len(order))
    return hashes[order], spelled


def _naming(titles: Sequence[str], texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int32]]:
    """What names exactly one item: a whole title or text first, then a title without a bracket at its end."""
    whole: dict[int, int] = {}
    short: dict[int, int] = {}
    for item, (title, text) in enumerate(zip(titles, texts, strict=True)):
        names = names_of(title)
        for name in {" ".join(split_words(text)), *names[:1]} - {""}:
            _claim(whole, name, item)
        for name in names[1:]:
            _claim(short, name, item)
    found = {key: item for key, item in ({**short, **whole}).items() if item != _AMBIGUOUS}
    keys = np.array(sorted(found), dtype=np.uint64)
    return keys, np.array([found[key] for key in keys.tolist()], dtype=np.int32)


def _claim(names: dict[int, int], name: str, item: int) -> None:
    key = hash_of(name)
    names[key] = item if names.get(key, item) == item else _AMBIGUOUS
