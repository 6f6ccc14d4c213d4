"""Texts to token ids, with the tokenizer file of the bundle. The export uses this too, so both see the same ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as Backend

from server.errors import BundleError
from server.models.words import Words

_CONFIG = "tokenizer_config.json"  # beside a checkpoint's tokenizer; a bundle has none


class Tokenizer:
    """A Hugging Face fast tokenizer without padding; padding is the batch's business."""

    def __init__(self, backend: Backend, max_tokens: int) -> None:
        self._backend = backend
        self._words = Words(backend, max_tokens) if Words.fits(backend) else None

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
