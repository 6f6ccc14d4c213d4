"""Vocabulary pruning: word pieces that no text needs are removed from the tokenizer and from the embeddings.

WordPiece chooses the longest matching piece, so texts whose pieces are all kept are tokenised as before; other words
are split into remaining pieces. Always kept: special tokens, each single character and its continuation form, pieces
with a character that lacks one of these forms, and the pieces of the texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from swiftrec.export.errors import ExportError

TokenizerFields = dict[str, Any]

_RECORD = "vocabulary.json"
_SPECIAL = frozenset(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The number of word pieces of the students, and of the checkpoint."""

    kept: int
    total: int

    def save(self, folder: Path) -> None:
        """Write `vocabulary.json`."""
        (folder / _RECORD).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads((folder / _RECORD).read_text()))


def read_wordpiece(path: Path) -> TokenizerFields:
    """Read a tokenizer.json that can be pruned.

    Raises:
        ExportError: the tokenizer is not WordPiece.
    """
    fields: TokenizerFields = json.loads(path.read_text(encoding="utf-8"))
    kind = fields["model"].get("type")
    if kind != "WordPiece":
        raise ExportError(
            f"--vocabulary supports only WordPiece tokenizers, and this checkpoint's is {kind}: use 'all', or "
            "a checkpoint with WordPiece (BERT, DistilBERT, ELECTRA)"
        )
    return fields


def choose_pieces(fields: TokenizerFields, rows: Iterable[Sequence[int]], limit: int) -> list[int]:
    """The ids that are kept, ascending: the needed ones and, up to `limit` in all, the first of the others.

    `rows` are the token ids of every text that must be tokenised as before. Vocabularies start with frequent words.
    """
    vocabulary: dict[str, int] = fields["model"]["vocab"]
    needed = _needed(fields)
    for row in rows:
        needed.update(row)
    others = sorted(n for piece, n in vocabulary.items() if n not in needed and not piece.startswith("["))  # [unused1]
    return sorted([*needed, *others[: max(0, limit - len(needed))]])


def _needed(fields: TokenizerFields) -> set[int]:
    """Special tokens and the pieces from which any word can be composed."""
    vocabulary, prefix = fields["model"]["vocab"], fields["model"]["continuing_subword_prefix"]
    both = {piece for piece in vocabulary if len(piece) == 1 and prefix + piece in vocabulary}
    special = _SPECIAL | {fields["model"]["unk_token"]}
    spelling = {n for piece, n in vocabulary.items() if _is_letter(piece, prefix, both) or piece in special}
    return spelling | {token["id"] for token in fields["added_tokens"]}


def _is_letter(piece: str, prefix: str, both: set[str]) -> bool:
    """Whether it is one character, or has one that lacks a form; pieces in [] are not text."""
    bare = piece.removeprefix(prefix)
    return len(bare) == 1 or not (piece.startswith("[") or both.issuperset(bare))


def cut_tokenizer(fields: TokenizerFields, kept: Sequence[int]) -> TokenizerFields:
    """The tokenizer with the given pieces only; the new id of a piece is its index in `kept`."""
    new_ids = {old: new for new, old in enumerate(kept)}
    vocabulary = {piece: new_ids[n] for piece, n in fields["model"]["vocab"].items() if n in new_ids}
    return fields | {
        "model": fields["model"] | {"vocab": vocabulary},
        "added_tokens": [token | {"id": new_ids[token["id"]]} for token in fields["added_tokens"]],
        "post_processor": _renumbered(fields["post_processor"], new_ids),
    }


def _renumbered(part: TokenizerFields | None, new_ids: dict[int, int]) -> TokenizerFields | None:
    """The post-processor, which adds special tokens by their ids."""
    if part is None:
        return None
    if part["type"] == "Sequence":
        return part | {"processors": [_renumbered(processor, new_ids) for processor in part["processors"]]}
    if part["type"] == "TemplateProcessing":
        special = part["special_tokens"]
        moved = {name: token | {"ids": [new_ids[n] for n in token["ids"]]} for name, token in special.items()}
        return part | {"special_tokens": moved}
    ends = (end for end in ("cls", "sep") if end in part)
    return part | {end: [part[end][0], new_ids[part[end][1]]] for end in ends}
