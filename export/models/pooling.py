"""From token vectors to one vector: the mean, or the pooling of a pretrained recommender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from swiftrec.export.checkpoints.head import Head

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "identity": lambda x: x,
}


class HeadPooling(nn.Module):
    """Pooling of a pretrained recommender: first token or mean, its dense layer, and 1 at the end if its rows need it.

    It is a module of the BERT (`bert.pooling`), so that students start with it.
    """

    def __init__(self, hidden: int, *, mode: str, width: int, activation: str, with_one: bool) -> None:
        super().__init__()
        self.mode, self.with_one, self.activation = mode, with_one, _ACTIVATIONS[activation]
        self.dense = nn.Linear(hidden, width) if width else None
        self.width = (width or hidden) + int(with_one)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """[batch, tokens, hidden] -> [batch, width]."""
        pooled = hidden[:, 0] if self.mode == "cls" else mean(hidden, attention_mask)
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        return torch.cat([pooled, torch.ones_like(pooled[:, :1])], dim=1) if self.with_one else pooled


def attach_pooling(bert: BertModel, head: Head | None = None) -> BertModel:
    """Add the pooling that config.json of the BERT names, unless it has one.

    The weights are those of `head`; without it the caller loads them.
    """
    shape: dict[str, Any] | None = getattr(bert.config, "pooling", None)
    if shape and not hasattr(bert, "pooling"):
        pooling = HeadPooling(bert.config.hidden_size, **shape)
        if head is not None and pooling.dense is not None:
            pooling.dense.load_state_dict({"weight": head.weight, "bias": head.bias})
        bert.pooling = pooling
    return bert


def pooled_width(bert: BertModel) -> int:
    """Length of the vector that `pool_tokens` makes."""
    pooling: HeadPooling | None = getattr(bert, "pooling", None)
    return pooling.width if pooling else int(bert.config.hidden_size)


def pool_tokens(bert: BertModel, hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """[batch, tokens, hidden] -> [batch, width]: the mean, unless the BERT has another pooling."""
    pooling: Callable[[Tensor, Tensor], Tensor] = getattr(bert, "pooling", mean)
    return pooling(hidden, attention_mask)


def mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of the token vectors [batch, tokens, hidden] where the mask is 1, [batch, hidden]."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)
