"""The training data of all students: clean and corrupted texts, and the teacher's vectors of them."""

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
from swiftrec.server.catalogue.splitting import split_words
from swiftrec.server.models.tokenizer import Tokenizer

_INVERSE_TEMPERATURE = 10.0  # of the softmax over the catalogue in which teacher and student are compared
_COSINE_WEIGHT = 10.0
_FILLED_SHARE, _MAX_FILLERS = 0.8, 6  # of the corrupted texts; of a text
_WORD_STARTS = "\u0120\u2581"  # what byte-level BPE and SentencePiece write before a word
_FILLER_WORDS = 3_000
MAX_EPOCH_TEXTS = 32_000  # 500 batches of 64; if there are more, each epoch draws other ones
_NEGATIONS = frozenset(
    [
        *("no", "not", "non", "nor", "never", "none", "neither", "nothing", "without"),
        *("except", "excluding", "exclude", "but", "instead", "unless", "only"),
    ]
)


@dataclass(frozen=True, slots=True)
class DistillationData:
    """Texts and the teacher's vectors of them; the target of a corrupted text is the vector of the clean one.

    Args:
        texts: every training text.
        rows: their token ids.
        tokenizer: for the corrupted texts, which are new in every epoch.
        targets: the teacher's vectors, float32 [texts, d + d2]: a unit vector for the ranker, then the text's unit
            sentence vector (d2 is 0 if the teacher has none).
        items: the catalogue's vectors for the ranker, float32 [items, d].
        seed: of the corruption; the epoch is added to it.
        fillers: frequent words that may be inserted into a corrupted text.
    """

    texts: list[str]
    rows: Sequence[list[int]]
    tokenizer: Tokenizer
    targets: Tensor
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
        return self.targets.shape[1] - self.dimensions

    def steps(self, size: int) -> int:
        """Batches in an epoch."""
        return -(-min(len(self.rows), MAX_EPOCH_TEXTS) // size)

    def batches(self, epoch: int, size: int, corrupted: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Texts in batches of similar length, in random order: ids, mask, target vectors.

        Every text once, or `MAX_EPOCH_TEXTS` of them. The share `corrupted` of the texts has typing errors, dropped or
        swapped words, and fillers. The same epoch gives the same batches.
        """
        rows = self.rows_of_epoch(epoch, corrupted)
        drawn, order = self._draw(epoch)
        lengths = np.zeros(len(self.rows), np.int64)
        lengths[drawn] = [len(rows[n]) for n in drawn.tolist()]
        for batch in shuffled(drawn, lengths, size, order):
            yield *pad([rows[n] for n in batch]), self.targets[batch]

    def rows_of_epoch(self, epoch: int, corrupted: float) -> dict[int, list[int]]:
        """Position -> token ids of the texts that an epoch reads, corrupted ones among them."""
        rng, positions = random.Random(self.seed + epoch), sorted(self._draw(epoch)[0].tolist())  # noqa: S311 (no secret)
        chosen = [n for n in positions if rng.random() < corrupted]
        rows = self.tokenizer.encode([self._filled(corrupt(self.texts[n], rng), rng) for n in chosen])
        return {n: self.rows[n] for n in positions} | dict(zip(chosen, rows, strict=True))

    def _draw(self, epoch: int) -> tuple[NDArray[np.int64], np.random.Generator]:
        """Positions of the texts that an epoch reads, in random order, and the generator of the order of batches."""
        rng = np.random.default_rng((self.seed, epoch))
        return rng.permutation(len(self.rows))[:MAX_EPOCH_TEXTS], rng

    def _filled(self, text: str, rng: random.Random) -> str:
        """The text with some fillers between its words, which a student must learn to ignore."""
        if not self.fillers or rng.random() >= _FILLED_SHARE:
            return text
        words = text.split()
        for _ in range(rng.randint(1, _MAX_FILLERS)):
            words.insert(rng.randint(0, len(words)), rng.choice(self.fillers))
        return " ".join(words)

    def loss(self, vectors: Tensor, targets: Tensor) -> Tensor:
        """Cosine distance of both halves, and for the ranker half the KL divergence of the similarities to all items.

        The divergence is that of Hinton et al., 2015; it did not help the sentence half (static student, MovieLens).
        """
        ranker_half, target = vectors[:, : self.dimensions], targets[:, : self.dimensions]
        loss = _COSINE_WEIGHT * _cosine_distance(ranker_half, target) + self._divergence(ranker_half, target)
        if self.sentence_dimensions:
            sentences = _cosine_distance(vectors[:, self.dimensions :], targets[:, self.dimensions :])
            loss = loss + _COSINE_WEIGHT * sentences
        return loss

    def _divergence(self, vectors: Tensor, targets: Tensor) -> Tensor:
        student, teacher = (
            functional.log_softmax(_INVERSE_TEMPERATURE * half @ self.items.T, dim=-1) for half in (vectors, targets)
        )
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def frequent_words(tokenizer: Path, texts: Iterable[str]) -> list[str]:
    """The first words of a tokenizer's vocabulary, which is in the order of their frequency, that are in no text.

    Words of texts have a meaning ("drama"), and so have negations and the words around them, whether this data set has
    phrases with them or not.
    """
    meaningful = {word for text in texts for word in split_words(text)} | _NEGATIONS
    meaningful |= {word for template in (*TRAINING.negation, *VALIDATION.negation) for word in split_words(template)}
    pieces = sorted(Vocabulary.from_file(str(tokenizer)).get_vocab().items(), key=lambda pair: pair[1])
    words = (piece.lstrip(_WORD_STARTS) for piece, _ in pieces)
    fillers = (word for word in words if len(word) > 1 and word.isalpha() and word.casefold() not in meaningful)
    return list(itertools.islice(fillers, _FILLER_WORDS))


def _cosine_distance(vectors: Tensor, targets: Tensor) -> Tensor:
    return 1 - (vectors * targets).sum(-1).mean()
