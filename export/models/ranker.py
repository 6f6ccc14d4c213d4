"""The ranker: a causal transformer over the vectors of history and query, with learned relative positions."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from swiftrec.server.arrays import Vectors

_KINDS = 3  # item, text, query: server.models.networks.EventKind
_MASKED = -1e9
_LAYERS, _HEADS = 2, 4


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
        return self._mix(x, q, k, v, bias)

    def last(self, x: Tensor, at: Tensor, bias: Tensor) -> Tensor:
        """What `forward` gives for one position of each row, [batch, 1, width]; `bias` is [batch, heads, 1, time]."""
        batch, time, width = x.shape
        per_head, weight, offset = width // self.heads, self.qkv.weight, self.qkv.bias
        own = x[torch.arange(batch), at].unsqueeze(1)
        q = functional.linear(self.norm1(own), weight[:width], offset[:width])
        kv = functional.linear(self.norm1(x), weight[width:], offset[width:])
        k, v = kv.view(batch, time, 2, self.heads, per_head).permute(2, 0, 3, 1, 4).unbind(0)
        return self._mix(own, q.view(batch, 1, self.heads, per_head).transpose(1, 2), k, v, bias)

    def _mix(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attention of `x` by its queries, and feed-forward."""
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.drop(self.out(mixed))
        y: Tensor = x + self.drop(self.down(functional.gelu(self.up(self.norm2(x)))))
        return y


class EventEmbedding(nn.Module):
    """First layer of every ranker: adds the embedding of each event's kind to its vector, and normalises the sum."""

    def __init__(self, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.kind = nn.Embedding(_KINDS, dimensions)
        nn.init.normal_(self.kind.weight, std=0.02)
        self.norm = nn.LayerNorm(dimensions)
        self.drop = nn.Dropout(dropout)

    def forward(self, vectors: Tensor, kinds: Tensor) -> Tensor:
        """[batch, time, dimensions] -> the same."""
        # Unit vectors have entries near width ** -0.5: they are scaled to entries near 1 before the sum.
        x: Tensor = self.drop(self.norm(vectors * vectors.shape[-1] ** 0.5 + self.kind(kinds)))
        return x


class Ranker(nn.Module):
    """Vectors of events (and of the query, last) -> a user vector at every position.

    Self-attentive sequential recommendation (Kang and McAuley, ICDM 2018), with a bias for the distance in the place
    of absolute positions, so that padding on the right changes nothing.
    """

    bias_index: Tensor
    causal: Tensor

    def __init__(self, dimensions: int, max_length: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.entry = EventEmbedding(dimensions, dropout)
        self.distance = nn.Parameter(torch.zeros(_HEADS, max_length))
        self.norm_out = nn.LayerNorm(dimensions)
        self.blocks = nn.ModuleList(Block(dimensions, _HEADS, dropout) for _ in range(_LAYERS))
        self.out = nn.Linear(dimensions, dimensions)
        steps = torch.arange(max_length)
        self.register_buffer("bias_index", (steps[:, None] - steps[None]).clamp(min=0), persistent=False)
        self.register_buffer("causal", torch.triu(torch.full((max_length, max_length), _MASKED), 1), persistent=False)

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 (padding comes last)
        """User vectors, [batch, time, dimensions].

        Args:
            vectors: float32 [batch, time, dimensions], oldest first, padded on the right.
            kinds: int64 [batch, time]; 0 item, 1 text, 2 query.
            mask: int64 [batch, time]; 1 where there is an event, 0 where there is padding.
        """
        time = vectors.shape[1]
        x, bias = self.entry(vectors, kinds), self._bias()[:, :time, :time]
        for block in self.blocks:
            x = block(x, bias)
        user: Tensor = self.out(self.norm_out(x))
        return user

    def last(self, vectors: Tensor, kinds: Tensor, at: Tensor) -> Tensor:
        """What `forward` gives at the position `at` (int64 [batch]) of each row, [batch, dimensions].

        The last layer is computed for this position alone: with two layers and a full history about half of the work.
        """
        time = vectors.shape[1]
        x, bias = self.entry(vectors, kinds), self._bias()[:, :, :time]
        *all_positions, last = self.blocks
        for block in all_positions:
            x = block(x, bias[:, :time])
        x = cast(Block, last).last(x, at, bias.transpose(0, 1)[at].unsqueeze(2))
        user: Tensor = self.out(self.norm_out(x)).squeeze(1)
        return user

    def _bias(self) -> Tensor:
        """Added to attention scores: the bias of the distance, and the mask of later events, [heads, time, time]."""
        return self.distance[:, self.bias_index] + self.causal


class LastUser(nn.Module):
    """The user vector at each row's last event, [batch, dimensions]."""

    def __init__(self, ranker: nn.Module) -> None:
        super().__init__()
        self.ranker = ranker

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """See `Ranker.forward`."""
        users = self.ranker(vectors, kinds, mask)
        last = (mask.sum(1) - 1).clamp(min=0)
        user: Tensor = users[torch.arange(users.shape[0]), last]
        return user


class FastLastUser(LastUser):
    """The same, by `Ranker.last` if the ranker has it, which needs less work: this is traced into the graph."""

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """See `Ranker.forward`."""
        if not isinstance(self.ranker, Ranker):
            return super().forward(vectors, kinds, mask)
        return self.ranker.last(vectors, kinds, (mask.sum(1) - 1).clamp(min=0))


class TorchSession:
    """A ranker in PyTorch in the place of its ONNX session."""

    def __init__(self, ranker: nn.Module) -> None:
        self._last = LastUser(ranker).eval()

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        with torch.inference_mode():
            users = self._last(*(torch.from_numpy(feeds[n]) for n in ("vectors", "kinds", "mask")))
        vectors: Vectors = users.numpy()
        return vectors
