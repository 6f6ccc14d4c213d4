"""The encoders and rankers that are evaluated: the teacher in PyTorch, a variant by the server's own code."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import torch

from export.evaluate.subject import Encode, Rank, Vectors
from export.train.batches import by_length
from export.train.encoder import TextEncoder, load_tokenizer, load_trunk, pad
from export.train.ranker import TorchSession
from export.train.teacher import Teacher
from server.errors import BundleError, ProviderError
from server.models.encoder import EncoderModel
from server.models.ranker import RankerModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

_BATCH = 16
_CPU = "cpu"


def torch_encode(checkpoint: Path, max_tokens: int, teacher: Teacher | None) -> Encode:
    """Texts by the BERT at `checkpoint`: the teacher's vectors, or without one its own pooled ones, scaled to 1."""
    encoder = TextEncoder(load_trunk(checkpoint), 1).eval()
    tokenizer = load_tokenizer(checkpoint, max_tokens)

    def encode(texts: list[str]) -> Vectors:
        rows = tokenizer.encode(texts)
        parts = by_length([len(row) for row in rows], 4 * _BATCH)
        with torch.inference_mode():
            pooled = torch.cat([encoder.pool(*pad([rows[n] for n in part])) for part in parts])
            vectors = teacher.text_vectors(pooled) if teacher else torch.nn.functional.normalize(pooled, dim=-1)
        return _in_order(vectors.numpy(), parts)

    return encode


def torch_rank(teacher: Teacher) -> Rank:
    """The teacher's ranker in PyTorch, behind the server's way of padding."""
    model = RankerModel(TorchSession(teacher.ranker), teacher.projection.out_features)
    return lambda sequences: np.array(model.run(sequences))


def served_encode(path: Path, tokenizer: Tokenizer, device: str) -> Encode:
    """Texts as the server encodes them with the graph at `path`."""
    model = EncoderModel(open_session(path, device))

    def encode(texts: list[str]) -> Vectors:
        rows = tokenizer.encode(texts)
        parts = by_length([len(row) for row in rows], _BATCH)
        return _in_order(np.array([v for part in parts for v in model.run([rows[n] for n in part])]), parts)

    return encode


def encode_here(path: Path, tokenizer: Tokenizer, device: str) -> tuple[Encode, str] | None:
    """The same and the device that runs it: the graph's own, else the CPU; None if the CPU cannot run it either.

    The CPU computes fp16 in fp32 between casts, so quality is known before a GPU has seen the graph; speed is not.
    """
    with contextlib.suppress(ProviderError):
        return served_encode(path, tokenizer, device), device
    with contextlib.suppress(BundleError):
        return served_encode(path, tokenizer, _CPU), _CPU
    return None


def served_rank(path: Path, dimensions: int) -> Rank:
    """Sequences as the server ranks them."""
    model = RankerModel(open_session(path), dimensions)
    return lambda sequences: np.array(model.run(sequences))


def _in_order(vectors: Vectors, parts: list[list[int]]) -> Vectors:
    ordered = np.empty_like(vectors)
    ordered[[n for part in parts for n in part]] = vectors
    return ordered
