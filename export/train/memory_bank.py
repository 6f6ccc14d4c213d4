"""The bank of pooled text vectors while BERT moves.

A step scores against vectors of the whole catalogue, but can afford to run BERT on a few texts only. So each step
encodes some texts with gradient and takes the others from the bank, where they are since their own last turn. Three
quarters of a step's texts are drawn from those that its batch reads, the rest are those that have waited longest: every
text is encoded again at least once in 4 * texts / texts_per_step steps, and all of them after each epoch. (Letting the
gradient of the other texts wait until their turn was tried: it diverges, since BERT has moved on meanwhile and is
pushed the same way again and again.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from swiftrec.export.models.backbone import MovingTrunk
from swiftrec.export.train.fgm import no_shift, worst_shift


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts that a step has encoded: their positions, and their vectors with BERT's graph behind them.

    `shift` is what was added to their words' embeddings, if their gradient is asked for.
    """

    texts: list[int]
    vectors: Tensor
    shift: Tensor | None = None

    def backward(self, gradient: Tensor) -> None:
        """Send these texts' rows of the bank's gradient [texts, hidden] down into BERT."""
        self.vectors.backward(gradient[self.texts].to(self.vectors.dtype))  # type: ignore[no-untyped-call]


class MovingBank:
    """Pooled vectors [texts, hidden] of a trunk, and the turn of each text's last encoding."""

    def __init__(self, trunk: MovingTrunk, per_step: int, step: Callable[[], None] = lambda: None) -> None:
        """Encode every text; `step` is called after each of the trunk's `batches`."""
        self.trunk, self._per_step = trunk, per_step
        self.pooled = trunk.all(step)
        self.encoded = torch.zeros(len(self.pooled), dtype=torch.int64)
        self._turn = 0

    def choose(self, read: NDArray[np.int64], rng: np.random.Generator) -> list[int]:
        """The texts of the next turn: a draw from those that the batch reads, and those that have waited longest."""
        size = min(self._per_step, len(self.pooled))
        drawn = rng.permutation(np.unique(read))[: size - size // 4]
        ages = self.encoded.clone()
        ages[torch.from_numpy(drawn)] = torch.iinfo(torch.int64).max
        return [*drawn.tolist(), *torch.topk(ages, size - len(drawn), largest=False).indices.tolist()]

    def encode(self, read: NDArray[np.int64], rng: np.random.Generator, *, to_words: bool = False) -> Encoded:
        """Encode the texts of the next turn with gradient, `to_words` down to these, and put them into the bank."""
        self._turn += 1
        texts = self.choose(read, rng)
        shift = no_shift(self.trunk, texts) if to_words else None
        vectors = self.trunk(texts, shift)
        self.pooled[texts] = vectors.detach().float()
        self.encoded[texts] = self._turn
        return Encoded(texts, vectors, shift)

    def worsen(self, encoded: Encoded, strength: float) -> Encoded:
        """The texts again, against the worst shift of their words; the bank stays as it is."""
        if encoded.shift is None:
            raise ValueError("encode these texts down to their words")
        shift = worst_shift(self.trunk, encoded.texts, encoded.shift, strength)
        return Encoded(encoded.texts, self.trunk(encoded.texts, shift))

    def refresh(self) -> None:
        """Encode every text again."""
        self.pooled = self.trunk.all()
        self.encoded[:] = self._turn

    def tensors(self) -> dict[str, Tensor]:
        """What a run that is stopped must keep."""
        return {"pooled": self.pooled, "encoded": self.encoded}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `tensors`."""
        self.pooled, self.encoded = (tensors[name].to(self.pooled.device) for name in ("pooled", "encoded"))
        self._turn = int(self.encoded.max())
