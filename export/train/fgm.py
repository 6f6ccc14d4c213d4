"""Adversarial perturbations of the input along the gradient of the loss (FGM: Miyato et al., ICLR 2017).

While BERT is tuned, the word embeddings of a text are perturbed, which is where typing errors show. The gradient goes
down to them through the fixed layers, although these must then run in every step: a perturbation of the first tuned
layer's input would be cheaper, but no change of words produces it. While the head is trained, the pooled text vectors
are perturbed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from swiftrec.export.models.backbone import Backbone


def fgm_step(rows: Tensor, gradient: Tensor, strength: float) -> Tensor:
    """A step for each of `rows` [n, width] along its gradient, `strength` times as long as the row."""
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    step: Tensor = strength * length * functional.normalize(gradient, dim=1)
    return step


def zero_perturbation(backbone: Backbone, texts: list[int]) -> Tensor:
    """Zeros [texts, tokens, hidden] that, added to the word embeddings of `texts`, receive their gradient."""
    return torch.zeros_like(backbone.word_embeddings(texts)).requires_grad_()


def worst_perturbation(backbone: Backbone, texts: list[int], perturbation: Tensor, strength: float) -> Tensor:
    """The perturbation that raises the loss most; its length is `strength` times that of a text's word embeddings.

    `perturbation` is that of `zero_perturbation`, with the gradient of a loss.
    """
    gradient = torch.zeros_like(perturbation) if perturbation.grad is None else perturbation.grad
    embeddings = backbone.word_embeddings(texts).flatten(1)
    return fgm_step(embeddings, gradient.flatten(1), strength).view_as(perturbation)
