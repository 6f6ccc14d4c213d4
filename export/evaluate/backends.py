"""The encoders and rankers that are evaluated: the teacher in PyTorch, a variant by the server's code."""

from __future__ import annotations

import contextlib
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.evaluate.recommender import Encode, Rank
from swiftrec.export.models.bucketing import by_length
from swiftrec.export.models.encoder import TextEncoder, load_bert, load_tokenizer, pad
from swiftrec.export.models.ranker import TorchSession
from swiftrec.export.models.sentence_space import sentence_vectors
from swiftrec.export.models.teacher import Teacher
from swiftrec.server.arrays import Vectors
from swiftrec.server.errors import BundleError, ProviderError
from swiftrec.server.models.networks import EncoderModel, RankerModel
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer

_BATCH = 16
_CPU = "cpu"
_ROWS = 16_384  # pooled vectors read at a time
_KEPT_TEXTS = 50_000  # 77 MB at a width of 384


class PooledTexts:
    """Pooled vectors of texts by the BERT at `checkpoint`, in PyTorch.

    It caches those of recent texts, because the recommenders that share it encode the same ones.
    """

    def __init__(self, checkpoint: Path, max_tokens: int) -> None:
        self._checkpoint, self._max_tokens = checkpoint, max_tokens
        self._known: dict[str, Vectors] = {}

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(load_bert(self._checkpoint), 1).eval()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(self._checkpoint, self._max_tokens)

    def __call__(self, texts: list[str]) -> Tensor:
        """[texts, hidden]."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if len(self._known) + len(new) > _KEPT_TEXTS:
            self._known, new = {}, [*dict.fromkeys(texts)]
        self._known.update(zip(new, self._encode(new), strict=True))
        return torch.from_numpy(np.stack([self._known[text] for text in texts]))

    def _encode(self, texts: list[str]) -> Vectors:
        if not texts:
            return np.empty((0, 0), np.float32)
        rows = self._tokenizer.encode(texts)
        parts = by_length([len(row) for row in rows], 4 * _BATCH)
        with torch.inference_mode():
            pooled = torch.cat([self._encoder.pool(*pad([rows[n] for n in part])) for part in parts])
        return _in_order(pooled.numpy(), parts)


def plain_encode(pooled: PooledTexts) -> Encode:
    """A checkpoint's vectors, scaled to length 1."""
    return lambda texts: torch.nn.functional.normalize(pooled(texts), dim=-1).numpy()


def teacher_encode(tuned: PooledTexts, teacher: Teacher, untouched: PooledTexts, sentence_map: Tensor | None) -> Encode:
    """The teacher's vectors: the tuned BERT's for the ranker, and behind them sentence vectors if there is a map."""

    def encode(texts: list[str]) -> Vectors:
        with torch.inference_mode():
            vectors = teacher.text_vectors(tuned(texts))
            if sentence_map is not None:
                vectors = torch.cat([vectors, sentence_vectors(untouched(texts), sentence_map)], dim=1)
        whole: Vectors = vectors.numpy()
        return whole

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
    """The encoder and the device that runs it: the given one, else the CPU; None if the CPU cannot run it either.

    The CPU computes fp16 in fp32 between casts, so quality can be measured without a GPU; speed cannot.
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
