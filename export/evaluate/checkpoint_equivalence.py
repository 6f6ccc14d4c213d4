"""Whether the BERT written from a checkpoint gives the same vectors as the checkpoint's own library."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer as Backend
from torch.nn import functional

from swiftrec.export.checkpoints.formats import CheckpointKind, backbone_folder, is_own
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.checkpoints.tokenizer import probes
from swiftrec.export.errors import CheckpointError
from swiftrec.export.evaluate.checkpoint_library import vectors_by_library
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad

_TOLERANCE = 1e-3  # of a vector's length; rounding makes 1e-5


def require_same_vectors(folder: Path, kind: CheckpointKind, head: Head | None, written: Path, max_tokens: int) -> None:
    """Refuse a checkpoint if the written BERT gives some texts other vectors than the checkpoint's own library.

    Args:
        folder: the checkpoint.
        kind: its kind.
        head: the head that is adopted; None if only the encoder is used.
        written: the folder with the BERT.
        max_tokens: the number of tokens that texts are truncated to.

    Raises:
        CheckpointError: a vector differs, or the library cannot load the checkpoint.
    """
    if head is None and is_own(folder):
        return  # an export wrote its encoder
    tokenizer = load_tokenizer(written, max_tokens)
    texts = probes(Backend.from_file(str(written / "tokenizer.json")))
    texts = [text for text, row in zip(texts, tokenizer.encode(texts), strict=True) if 0 < len(row) < max_tokens]
    theirs = vectors_by_library(folder, kind, texts, max_tokens, adopt=head is not None)
    encoder = TextEncoder(load_bert(written), 1).eval()
    with torch.inference_mode():
        ours = encoder.pool(*pad(tokenizer.encode(texts)))
    if head is not None and head.shape.similarity == "cosine":
        ours, theirs = functional.normalize(ours, dim=-1), functional.normalize(theirs, dim=-1)
    distances = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)
    for text, distance in zip(texts, distances.tolist(), strict=True):
        if not distance <= _TOLERANCE:  # NaN, too
            raise CheckpointError(
                f"{backbone_folder(folder)}: the text {text[:60]!r} gets another vector than by the checkpoint's own "
                f"library (distance {distance:.2g} of its length), so some setting is not supported: use another "
                "checkpoint"
            )
