"""The vectors of a checkpoint as it is written here, compared with those by the library that it was made with."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from torch.nn import functional

from swiftrec.export.checkpoints.head import Head
from swiftrec.export.checkpoints.heads import CheckpointKind, is_own, trunk_folder
from swiftrec.export.checkpoints.original import vectors_by_library
from swiftrec.export.checkpoints.tokenizer import probes
from swiftrec.export.errors import CheckpointError
from swiftrec.export.models.encoder import TextEncoder, load_tokenizer, load_trunk, pad

_TOLERANCE = 1e-3  # of a vector's length; rounding makes 1e-5


def require_same_vectors(folder: Path, kind: CheckpointKind, head: Head | None, written: Path, max_tokens: int) -> None:
    """Refuse what was written if some texts get other vectors by it than by the checkpoint's own library.

    Args:
        folder: the checkpoint as it came.
        kind: of it.
        head: what is adopted; None if only the encoder is used.
        written: the folder with the BERT.
        max_tokens: a text is cut to this many tokens.

    Raises:
        CheckpointError: a vector differs, or the library cannot load the checkpoint.
    """
    if head is None and is_own(folder):
        return  # its encoder was written by an export
    tokenizer = load_tokenizer(written, max_tokens)
    texts = probes(Backend.from_file(str(written / "tokenizer.json")))
    texts = [text for text, row in zip(texts, tokenizer.encode(texts), strict=True) if 0 < len(row) < max_tokens]
    theirs = vectors_by_library(folder, kind, texts, max_tokens, adopt=head is not None)
    encoder = TextEncoder(load_trunk(written), 1).eval()
    with torch.inference_mode():
        ours = encoder.pool(*pad(tokenizer.encode(texts)))
    if head is not None and head.shape.similarity == "cosine":
        ours, theirs = functional.normalize(ours, dim=-1), functional.normalize(theirs, dim=-1)
    apart = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    for text, distance in zip(texts, apart.tolist(), strict=True):
        if not distance <= _TOLERANCE:  # NaN, too
            raise CheckpointError(
                f"{trunk_folder(folder)}: the text {text[:60]!r} gets another vector here than by the library that the "
                f"checkpoint was made with (apart by {distance:.2g} of its length): a setting of it is not known here, "
                "so use another checkpoint"
            )
