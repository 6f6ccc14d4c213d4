"""A smaller vocabulary: the tokenizer forgets word pieces that nothing needs, and tables lose their rows.

WordPiece takes the longest piece that fits, so texts whose pieces are all kept are cut as before; any other word is
spelled with pieces that are left. What is kept in any case: special tokens, every single character and its continued
form, pieces with a character that has not both forms, and what the texts use.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from swiftrec.export.errors import ExportError

Facts = dict[str, Any]

_RECORD = "vocabulary.json"
_SPECIAL = frozenset(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How many pieces the students know, `of` those that the checkpoint knows."""

    kept: int
    of: int

    def save(self, folder: Path) -> None:
        """Write `vocabulary.json`."""
        (folder / _RECORD).write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        return cls(**json.loads((folder / _RECORD).read_text()))


def read_tokenizer(path: Path) -> Facts:
    """A tokenizer file of the kind that can be cut.

    Raises:
        ExportError: it is none of WordPiece.
    """
    facts: Facts = json.loads(path.read_text(encoding="utf-8"))
    kind = facts["model"].get("type")
    if kind != "WordPiece":
        raise ExportError(
            f"--vocabulary can only cut a WordPiece tokenizer, and this checkpoint's is {kind}: leave it at 'all', or "
            "give a checkpoint with WordPiece (BERT, DistilBERT, ELECTRA)"
        )
    return facts


def choose_pieces(facts: Facts, rows: Iterable[Sequence[int]], most: int) -> list[int]:
    """Ids that are kept, ascending: those needed, and up to `most` in all the first of the others.

    `rows` are the token ids of every text that must be cut as before. Vocabularies have frequent words first.
    """
    vocabulary: dict[str, int] = facts["model"]["vocab"]
    needed = _needed(facts)
    for row in rows:
        needed.update(row)
    others = sorted(n for piece, n in vocabulary.items() if n not in needed and not piece.startswith("["))  # [unused1]
    return sorted([*needed, *others[: max(0, most - len(needed))]])


def _needed(facts: Facts) -> set[int]:
    """Special tokens, and what any word can be spelled with."""
    vocabulary, prefix = facts["model"]["vocab"], facts["model"]["continuing_subword_prefix"]
    both = {piece for piece in vocabulary if len(piece) == 1 and prefix + piece in vocabulary}
    special = _SPECIAL | {facts["model"]["unk_token"]}
    spelling = {n for piece, n in vocabulary.items() if _is_letter(piece, prefix, both) or piece in special}
    return spelling | {token["id"] for token in facts["added_tokens"]}


def _is_letter(piece: str, prefix: str, both: set[str]) -> bool:
    """Whether it is one character, or has one that cannot be spelled everywhere; what stands in [] is no text."""
    bare = piece.removeprefix(prefix)
    return len(bare) == 1 or not (piece.startswith("[") or both.issuperset(bare))


def cut_tokenizer(facts: Facts, kept: Sequence[int]) -> Facts:
    """The tokenizer with the given pieces only; the new id of a piece is its place in `kept`."""
    place = {old: new for new, old in enumerate(kept)}
    vocabulary = {piece: place[n] for piece, n in facts["model"]["vocab"].items() if n in place}
    return facts | {
        "model": facts["model"] | {"vocab": vocabulary},
        "added_tokens": [token | {"id": place[token["id"]]} for token in facts["added_tokens"]],
        "post_processor": _renumbered(facts["post_processor"], place),
    }


def _renumbered(part: Facts | None, place: dict[int, int]) -> Facts | None:
    """The post-processor, which puts special tokens around a text by their ids."""
    if part is None:
        return None
    if part["type"] == "Sequence":
        return part | {"processors": [_renumbered(one, place) for one in part["processors"]]}
    if part["type"] == "TemplateProcessing":
        special = part["special_tokens"]
        moved = {name: token | {"ids": [place[n] for n in token["ids"]]} for name, token in special.items()}
        return part | {"special_tokens": moved}
    ends = (end for end in ("cls", "sep") if end in part)
    return part | {end: [part[end][0], place[part[end][1]]] for end in ends}
