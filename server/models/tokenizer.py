"""Tokenises texts with the tokenizer file of the bundle. The export uses it too, so both get the same ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from swiftrec.server.errors import BundleError

_CONFIG = "tokenizer_config.json"  # beside a checkpoint's tokenizer; a bundle has none
_MAX_WORDS = 32_768  # in the cache
_MAX_WORD_CHARS, _MAX_WORD_PIECES = 24, 8  # longer words are rare and not cached


class Tokenizer:
    """A Hugging Face fast tokenizer without padding; batches are padded later."""

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = backend
        self._words = WordPieceCache(backend, max_tokens) if WordPieceCache.fits(backend) else None

    @classmethod
    def load(cls, path: Path, max_tokens: int) -> Tokenizer:
        """Read `path`; texts are cut to `max_tokens` tokens, [CLS] and [SEP] included.

        Raises:
            BundleError: the file is not a complete tokenizer.
        """
        if (config := path.with_name(_CONFIG)).exists():
            raise BundleError(
                f"{config}: overrides {path.name}: load the tokenizer file that the export writes from both"
            )
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:
            raise BundleError(f"{path}: not a tokenizer file ({error})") from error
        backend.no_padding()
        backend.enable_truncation(max_tokens)
        return cls(backend, max_tokens)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        if self._words:
            return [self._words.encode(text) for text in texts]
        # One text at a time: the thread pool of the library would compete with the sessions for CPU.
        return [self._backend.encode(text).ids for text in texts]

    def save(self, path: Path) -> None:
        """Write the tokenizer file."""
        self._backend.save(str(path))


class WordPieceCache:
    """Tokenises texts word by word: known words are looked up instead of running the tokenizer.

    BERT tokenizers treat words between spaces independently: they normalise each character, split at white space and
    punctuation, and look up the word pieces. So the pieces of a text are those of its words, most of which are cached.
    The number of words and their length are limited (at most 16 MB by calculation).

    Args:
        backend: a BERT tokenizer (`fits`).
        max_tokens: maximum number of ids of a text, including the special tokens at both ends.
    """

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = Backend.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        framed = backend.encode("a").ids
        bare = backend.encode("a", add_special_tokens=False).ids
        start = framed.index(bare[0])
        self._before, self._after = framed[:start], framed[start + len(bare) :]
        self._max_pieces = max_tokens - len(self._before) - len(self._after)
        self._pieces: dict[str, list[int]] = {"": []}

    @staticmethod
    def fits(backend: Backend) -> bool:
        """Whether the tokenizer treats words independently."""
        config: dict[str, Any] = json.loads(backend.to_str())
        kinds = [(config.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        added = config.get("added_tokens") or []
        return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not any(
            token["lstrip"] or token["rstrip"] or token["single_word"] or len(token["content"].split()) != 1
            for token in added
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [*self._before, *self._all(text)[: self._max_pieces], *self._after]

    def _all(self, text: str) -> list[int]:
        """The pieces of a text, before it is truncated."""
        if not text.isprintable():  # other white space than spaces, and characters that the tokenizer drops
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids
        words = text.split(" ")
        try:
            pieces_of_words = [self._pieces[word] for word in words]
        except KeyError:
            pieces_of_words = self._learn(words)
        return [*chain.from_iterable(pieces_of_words)]

    def _learn(self, words: list[str]) -> list[list[int]]:
        """The pieces of each word; runs the tokenizer once for all new words."""
        pieces = self._pieces
        new = [word for word in dict.fromkeys(words) if word not in pieces]
        encoding = self._backend.encode(" ".join(new), add_special_tokens=False)
        fresh: dict[str, list[int]] = {word: [] for word in new}
        ends, end = iter(new), -1
        row: list[int] = []
        for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True):
            while start >= end:
                word = next(ends)
                row, end = fresh[word], end + 1 + len(word)
            row.append(number)
        pieces_of_words = [fresh[word] if word in fresh else pieces[word] for word in words]
        self._keep(fresh)
        return pieces_of_words

    def _keep(self, fresh: dict[str, list[int]]) -> None:
        kept = {
            word: row for word, row in fresh.items() if len(word) <= _MAX_WORD_CHARS and len(row) <= _MAX_WORD_PIECES
        }
        if len(self._pieces) + len(kept) > _MAX_WORDS:
            self._pieces = {"": []}  # readers keep using the old one
        self._pieces.update(islice(kept.items(), _MAX_WORDS - len(self._pieces)))
