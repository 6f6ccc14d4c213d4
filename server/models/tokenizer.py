"""Texts to token ids, with the tokenizer file of the bundle. The export uses this too, so both see the same ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from swiftrec.server.errors import BundleError

_CONFIG = "tokenizer_config.json"  # beside a checkpoint's tokenizer; a bundle has none
_MOST_WORDS = 32_768  # kept at once
_LONGEST_WORD, _MOST_PIECES = 24, 8  # longer words are rare, and not kept


class Tokenizer:
    """A Hugging Face fast tokenizer without padding; batches are padded later."""

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = backend
        self._words = WordPieceCache(backend, max_tokens) if WordPieceCache.fits(backend) else None

    @classmethod
    def load(cls, path: Path, max_tokens: int) -> Tokenizer:
        """Read `path`; texts are cut to `max_tokens` tokens, [CLS] and [SEP] included.

        Raises:
            BundleError: the file is no tokenizer, or not the whole of one.
        """
        if (config := path.with_name(_CONFIG)).exists():
            raise BundleError(
                f"{config}: changes what {path.name} says: load the tokenizer that the export makes of both"
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
        # One text at a time: the library's own thread pool would compete with the sessions for the cores.
        return [self._backend.encode(text).ids for text in texts]

    def save(self, path: Path) -> None:
        """Write the tokenizer file."""
        self._backend.save(str(path))


class WordPieceCache:
    """Token ids of texts word by word: words seen before cost a look-up, not a run of the tokenizer.

    BERT's tokenizers treat what stands between two spaces by itself: they normalise character by character, split at
    white space and punctuation, and look up the pieces of each word. So the pieces of a text are those of its words in
    a row, and most words of a text were seen before. Bounded in words and their length (by calculation at most 16 MB).

    Args:
        backend: a tokenizer of BERT's kind (`fits`).
        max_tokens: ids of a text at most, the special ones at both ends included.
    """

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = Backend.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        one = backend.encode("a").ids
        bare = backend.encode("a", add_special_tokens=False).ids
        place = one.index(bare[0])
        self._before, self._after = one[:place], one[place + len(bare) :]
        self._most = max_tokens - len(self._before) - len(self._after)
        self._pieces: dict[str, list[int]] = {"": []}

    @staticmethod
    def fits(backend: Backend) -> bool:
        """Whether the tokenizer is of the kind whose words stand by themselves."""
        facts: dict[str, Any] = json.loads(backend.to_str())
        kinds = [(facts.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        added = facts.get("added_tokens") or []
        return kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"] and not any(
            token["lstrip"] or token["rstrip"] or token["single_word"] or len(token["content"].split()) != 1
            for token in added
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        return [*self._before, *self._all(text)[: self._most], *self._after]

    def _all(self, text: str) -> list[int]:
        """Its pieces, before it is cut."""
        if not text.isprintable():  # white space other than a blank, and what the tokenizer drops
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids
        words = text.split(" ")
        try:
            found = [self._pieces[word] for word in words]
        except KeyError:
            found = self._learn(words)
        return [*chain.from_iterable(found)]

    def _learn(self, words: list[str]) -> list[list[int]]:
        """The pieces of each word; all that are new in one run of the tokenizer."""
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
        found = [fresh[word] if word in fresh else pieces[word] for word in words]
        self._keep(fresh)
        return found

    def _keep(self, fresh: dict[str, list[int]]) -> None:
        kept = {word: row for word, row in fresh.items() if len(word) <= _LONGEST_WORD and len(row) <= _MOST_PIECES}
        if len(self._pieces) + len(kept) > _MOST_WORDS:
            self._pieces = {"": []}  # readers go on with the old one
        self._pieces.update(islice(kept.items(), _MOST_WORDS - len(self._pieces)))
