"""From token vectors to one vector: the mean, or what an adopted recommender does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertModel

from export.data.head import Head

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "identity": lambda x: x,
}


class HeadPooling(nn.Module):
    """Pooling of an adopted recommender: the first token or the mean, its dense layer, and 1 behind it if rows need it.

    It belongs to the trunk (`trunk.pooling`), so that a student starts with it.
    """

    def __init__(self, hidden: int, head: Head) -> None:
        super().__init__()
        self.mode, self.with_one = head.shape.mode, head.shape.with_one
        self.activation = _ACTIVATIONS[head.shape.activation]
        self.dense: nn.Linear | None = None
        width = hidden
        if head.weight is not None and head.bias is not None:
            width = len(head.weight)
            self.dense = nn.Linear(hidden, width)
            self.dense.load_state_dict({"weight": head.weight, "bias": head.bias})
        self.width = width + int(self.with_one)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """[batch, tokens, hidden] -> [batch, width]."""
        pooled = hidden[:, 0] if self.mode == "cls" else mean(hidden, attention_mask)
        if self.dense is not None:
            pooled = self.activation(self.dense(pooled))
        return torch.cat([pooled, torch.ones_like(pooled[:, :1])], dim=1) if self.with_one else pooled


def pooled_width(trunk: BertModel) -> int:
    """Length of the vector that `pool_tokens` makes."""
    pooling: HeadPooling | None = getattr(trunk, "pooling", None)
    return pooling.width if pooling else int(trunk.config.hidden_size)


def pool_tokens(trunk: BertModel, hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """[batch, tokens, hidden] -> [batch, width]: the mean, unless the trunk brings a pooling of its own."""
    pooling: Callable[[Tensor, Tensor], Tensor] = getattr(trunk, "pooling", mean)
    return pooling(hidden, attention_mask)


def mean(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean of the token vectors [batch, tokens, hidden] where the mask is 1, [batch, hidden]."""
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)
