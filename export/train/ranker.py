"""The ranker: a causal transformer over the vectors of history and query, with learned relative positions."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

_KINDS = 3  # item, text, query: server.models.ranker.Kind
_MASKED = -1e9


class Block(nn.Module):
    """Pre-norm self-attention and feed-forward, written out so that it traces into plain operators."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """[batch, time, width] -> the same; `bias` is added to the attention scores [batch, heads, time, time]."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + bias
        mixed = (self.drop(scores.softmax(-1)) @ v).transpose(1, 2).reshape(batch, time, width)
        x = x + self.drop(self.out(mixed))
        y: Tensor = x + self.drop(self.down(functional.gelu(self.up(self.norm2(x)))))
        return y


class Entry(nn.Module):
    """What every ranker does first: vectors of events with what they stand for, at a size that layers like."""

    def __init__(self, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.kind = nn.Embedding(_KINDS, dimensions)
        nn.init.normal_(self.kind.weight, std=0.02)
        self.norm = nn.LayerNorm(dimensions)
        self.drop = nn.Dropout(dropout)

    def forward(self, vectors: Tensor, kinds: Tensor) -> Tensor:
        """[batch, time, dimensions] -> the same."""
        # Unit vectors have entries near width ** -0.5: bring them to the size of the kind embedding's sum first.
        x: Tensor = self.drop(self.norm(vectors * vectors.shape[-1] ** 0.5 + self.kind(kinds)))
        return x


class Ranker(nn.Module):
    """Vectors of events (and of the query, last) -> a user vector at every position.

    Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), with a bias for the distance in the place
    of absolute positions, so that padding on the right changes nothing.
    """

    bias_index: Tensor
    causal: Tensor

    def __init__(
        self, dimensions: int, max_length: int, *, layers: int = 2, heads: int = 4, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.entry = Entry(dimensions, dropout)
        self.distance = nn.Parameter(torch.zeros(heads, max_length))
        self.norm_out = nn.LayerNorm(dimensions)
        self.blocks = nn.ModuleList(Block(dimensions, heads, dropout) for _ in range(layers))
        self.out = nn.Linear(dimensions, dimensions)
        steps = torch.arange(max_length)
        self.register_buffer("bias_index", (steps[:, None] - steps[None]).clamp(min=0), persistent=False)
        self.register_buffer("causal", torch.triu(torch.full((max_length, max_length), _MASKED), 1), persistent=False)

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """User vectors, [batch, time, dimensions].

        Args:
            vectors: float32 [batch, time, dimensions], oldest first, padded on the right.
            kinds: int64 [batch, time]; 0 item, 1 text, 2 query.
            mask: int64 [batch, time]; 1 where there is an event, 0 where there is padding.
        """
        time = vectors.shape[1]
        bias = self.distance[:, self.bias_index[:time, :time]] + self.causal[:time, :time]
        bias = bias.unsqueeze(0) + ((1 - mask) * _MASKED).to(vectors.dtype)[:, None, None, :]
        x = self.entry(vectors, kinds)
        for block in self.blocks:
            x = block(x, bias)
        user: Tensor = self.out(self.norm_out(x))
        return user


class LastUser(nn.Module):
    """The ranker as it is served: the user vector at each row's last event, [batch, dimensions]."""

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """See `Ranker.forward`."""
        users = self.ranker(vectors, kinds, mask)
        last = (mask.sum(1) - 1).clamp(min=0)
        user: Tensor = users[torch.arange(users.shape[0]), last]
        return user


class TorchSession:
    """A ranker in PyTorch as it is served, in the place of its ONNX session."""

    def __init__(self, ranker: nn.Module) -> None:
        self._last = LastUser(ranker).eval()

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        with torch.inference_mode():
            users = self._last(*(torch.from_numpy(feeds[n]) for n in ("vectors", "kinds", "mask")))
        found: NDArray[np.float32] = users.numpy()
        return found
