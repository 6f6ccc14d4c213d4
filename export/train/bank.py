"""The bank of pooled text vectors while BERT moves: what waits for each text, and whose turn it is.

A step scores against vectors of the whole catalogue, but can afford to run BERT on a few texts only. So the loss's
gradient stops at the bank and waits there, row by row. Each step then takes some texts, encodes them again, sends what
waited for them down into BERT, and puts their new vectors into the bank. No gradient is lost; it comes late by at most
a round. (Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, do this within
one batch.) Half of a step's texts are those with the largest waiting gradient, half those that have waited longest, so
that every text is encoded again at least once in 2 * texts / texts_per_step steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from export.train.trunk import MovingTrunk


class WaitingBank:
    """Pooled vectors [texts, hidden], the gradient that waits for each, and the step of its last encoding."""

    def __init__(self, trunk: MovingTrunk, per_step: int) -> None:
        self._trunk, self._per_step = trunk, per_step
        self.pooled = trunk.all()
        self.waiting = torch.zeros_like(self.pooled)
        self.encoded = torch.zeros(len(self.pooled), dtype=torch.int64)
        self._step = 0

    def add(self, gradient: Tensor) -> None:
        """Let the gradient of a step wait, [texts, hidden]."""
        self.waiting += gradient

    def turn(self) -> list[int]:
        """The texts that are encoded next."""
        size = min(self._per_step, len(self.pooled))
        chosen = torch.topk(self.waiting.norm(dim=1), size - size // 2).indices.tolist()
        ages = self.encoded.clone()
        ages[chosen] = torch.iinfo(torch.int64).max
        return chosen + torch.topk(ages, size // 2, largest=False).indices.tolist()

    def backward(self) -> None:
        """Encode this step's texts again and add their waiting gradient to that of the trunk's weights."""
        self._step += 1
        chosen = self.turn()
        vectors = self._trunk(chosen)
        vectors.backward(self.waiting[chosen].to(vectors.dtype))
        self.pooled[chosen] = vectors.detach().float()
        self.waiting[chosen] = 0
        self.encoded[chosen] = self._step

    def refresh(self) -> None:
        """Encode every text again."""
        if self._trunk.moves:
            self.pooled = self._trunk.all()
            self.encoded[:] = self._step

    def tensors(self) -> dict[str, Tensor]:
        """What a run that is stopped must keep."""
        return {"pooled": self.pooled, "waiting": self.waiting, "encoded": self.encoded}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from `tensors`."""
        self.pooled, self.waiting, self.encoded = tensors["pooled"], tensors["waiting"], tensors["encoded"]
        self._step = int(self.encoded.max())
