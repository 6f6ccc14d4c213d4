"""What every student learns from: texts, clean and noisy, and where the teacher puts them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Vocabulary
from torch import Tensor
from torch.nn import functional

from swiftrec.export.data.corruption import corrupt
from swiftrec.export.data.templates import TRAINING, VALIDATION
from swiftrec.export.models.bucketing import shuffled
from swiftrec.export.models.encoder import pad
from swiftrec.server.catalogue.words import split_words
from swiftrec.server.models.tokenizer import Tokenizer

_SHARPNESS = 10.0  # of the softmax over the catalogue in which teacher and student are compared
_COSINE_WEIGHT = 10.0
_FILLED, _MOST_FILLERS = 0.8, 6  # share of the noisy texts that get fillers, and how many
_WORD_STARTS = "\u0120\u2581"  # what byte-level BPE and SentencePiece write before a word
_FREQUENT = 3_000  # words that are fillers
MAX_EPOCH_TEXTS = 32_000  # that an epoch reads: 500 batches of 64; of more each epoch draws anew
_NEGATIONS = frozenset(
    [
        *("no", "not", "non", "nor", "never", "none", "neither", "nothing", "without"),
        *("except", "excluding", "exclude", "but", "instead", "unless", "only"),
    ]
)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Texts and the teacher's vectors of them; what a noisy text should become is the vector of the clean one.

    Args:
        texts: every training text.
        rows: their token ids.
        tokenizer: for the noisy ones, which every epoch writes anew.
        wanted: the teacher's vectors, float32 [texts, d + d2]: a unit vector for the ranker, then the text's unit
            sentence vector (d2 is 0 if the teacher has none).
        items: the catalogue's vectors for the ranker, float32 [items, d].
        seed: of the noise; the epoch is added to it.
        fillers: frequent words that noise may put into a text.
    """

    texts: list[str]
    rows: Sequence[list[int]]
    tokenizer: Tokenizer
    wanted: Tensor
    items: Tensor
    seed: int
    fillers: Sequence[str] = ()

    @property
    def dimensions(self) -> int:
        """Length of the ranker half."""
        return self.items.shape[1]

    @property
    def sentence_dimensions(self) -> int:
        """Length of the sentence half."""
        return self.wanted.shape[1] - self.dimensions

    def steps(self, size: int) -> int:
        """Batches in an epoch."""
        return -(-min(len(self.rows), MAX_EPOCH_TEXTS) // size)

    def epoch(self, number: int, size: int, noisy: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Texts in batches of similar length, in random order: ids, mask, wanted vectors.

        Every text once, or `MAX_EPOCH_TEXTS` of them. A share `noisy` of the texts has typos, words lost or in the
        wrong order, and fillers. The same number gives the same batches.
        """
        rows = self.spelled(number, noisy)
        drawn, order = self._drawn(number)
        lengths = np.zeros(len(self.rows), np.int64)
        lengths[drawn] = [len(rows[n]) for n in drawn.tolist()]
        for batch in shuffled(drawn, lengths, size, order):
            yield *pad([rows[n] for n in batch]), self.wanted[batch]

    def spelled(self, number: int, noisy: float) -> dict[int, list[int]]:
        """Position -> token ids of the texts that the epoch of that number reads, as it writes them."""
        rng, read = random.Random(self.seed + number), sorted(self._drawn(number)[0].tolist())  # noqa: S311 (no secret)
        chosen = [n for n in read if rng.random() < noisy]
        spelled = self.tokenizer.encode([self._filled(corrupt(self.texts[n], rng), rng) for n in chosen])
        return {n: self.rows[n] for n in read} | dict(zip(chosen, spelled, strict=True))

    def _drawn(self, number: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        """Positions of the texts that an epoch reads, in random order, and the generator of the order of batches."""
        rng = np.random.default_rng((self.seed, number))
        return rng.permutation(len(self.rows))[:MAX_EPOCH_TEXTS], rng

    def _filled(self, text: str, rng: random.Random) -> str:
        """The text with some fillers between its words, which a mean of words must pass over."""
        if not self.fillers or rng.random() >= _FILLED:
            return text
        words = text.split()
        for _ in range(rng.randint(1, _MOST_FILLERS)):
            words.insert(rng.randint(0, len(words)), rng.choice(self.fillers))
        return " ".join(words)

    def loss(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        """Cosine distance of both halves, and for the ranker the KL divergence of the similarities to the catalogue.

        The divergence is that of Hinton et al., 2015; it did not help the sentence half (static student, MovieLens).
        """
        own, target = vectors[:, : self.dimensions], wanted[:, : self.dimensions]
        loss = _COSINE_WEIGHT * _cosine_distance(own, target) + self._divergence(own, target)
        if self.sentence_dimensions:
            sentences = _cosine_distance(vectors[:, self.dimensions :], wanted[:, self.dimensions :])
            loss = loss + _COSINE_WEIGHT * sentences
        return loss

    def _divergence(self, vectors: Tensor, wanted: Tensor) -> Tensor:
        near = functional.log_softmax(_SHARPNESS * vectors @ self.items.T, dim=-1)
        target = functional.log_softmax(_SHARPNESS * wanted @ self.items.T, dim=-1)
        return functional.kl_div(near, target, reduction="batchmean", log_target=True)


def frequent_words(tokenizer: Path, texts: Iterable[str]) -> list[str]:
    """The first words of a tokenizer's vocabulary, which is in the order of their frequency, that stand in no text.

    Words of texts say something ("drama"), and so do negations and the words around them, whether this data set has
    phrases with them or not.
    """
    said = {word for text in texts for word in split_words(text)} | _NEGATIONS
    said |= {word for template in (*TRAINING.negation, *VALIDATION.negation) for word in split_words(template)}
    pieces = sorted(Vocabulary.from_file(str(tokenizer)).get_vocab().items(), key=lambda pair: pair[1])
    words = (piece.lstrip(_WORD_STARTS) for piece, _ in pieces)
    idle = (word for word in words if len(word) > 1 and word.isalpha() and word.casefold() not in said)
    return list(itertools.islice(idle, _FREQUENT))


def _cosine_distance(vectors: Tensor, wanted: Tensor) -> Tensor:
    return 1 - (vectors * wanted).sum(-1).mean()
