"""The worst small change of what a model reads, by its gradient (FGM: Miyato et al., ICLR 2017).

Of a text that BERT encodes with gradient, its word embeddings are changed: what a typing error changes, too. The
gradient goes down to them through layers that are fixed, although these then run in every step: a change of what the
first moving layer reads would be cheaper, but no change of words makes it. Where BERT stands still, and for the texts
whose vectors a step takes from the bank, it is the pooled vector.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swiftrec.export.models.backbone import MovingTrunk


def uphill(rows: Tensor, gradient: Tensor, strength: float) -> Tensor:
    """A step for each of `rows` [n, width] along its gradient, `strength` times as long as the row."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    step: Tensor = strength * length * functional.normalize(gradient, dim=1)
    return step


def against_them(rows: Tensor, gradient: Tensor, strength: float) -> Tensor:
    """Each row moved uphill by `strength` times its length."""
    return rows + uphill(rows, gradient, strength)


def no_shift(trunk: MovingTrunk, texts: list[int]) -> Tensor:
    """Zeros [texts, tokens, hidden] that, added to the words of `texts`, take the gradient of their embeddings."""
    return torch.zeros_like(trunk.words(texts)).requires_grad_()


def worst_shift(trunk: MovingTrunk, texts: list[int], shift: Tensor, strength: float) -> Tensor:
    """What makes `texts` worst: as long as `strength` times the embeddings of all words of a text together.

    `shift` is what `no_shift` gave, with the gradient of a loss.
    """
    gradient = torch.zeros_like(shift) if shift.grad is None else shift.grad
    return uphill(trunk.words(texts).flatten(1), gradient.flatten(1), strength).view_as(shift)
