"""The other rankers: a GRU, a perceptron and a mean; and the ranker that a name means."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from swiftrec.export.models.ranker import EventEmbedding, Ranker
from swiftrec.server.models.networks import EventKind


class GruRanker(nn.Module):
    """A gated recurrent unit over the events (Hidasi et al., ICLR 2016). Called like `Ranker`."""

    def __init__(self, dimensions: int, max_length: int, *, dropout: float = 0.2) -> None:  # noqa: ARG002 (any length)
        super().__init__()
        width = 2 * dimensions
        self.entry = EventEmbedding(dimensions, dropout)
        self.gru = nn.GRU(dimensions, width, batch_first=True)
        self.norm_out = nn.LayerNorm(width)
        self.out = nn.Linear(width, dimensions)
        self.drop = nn.Dropout(dropout)

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG002 (padding comes last)
        """See `Ranker.forward`."""
        states, _ = self.gru(self.entry(vectors, kinds))
        user: Tensor = self.out(self.drop(self.norm_out(states)))
        return user


class MlpRanker(nn.Module):
    """The last event and a mean of all with learned weights by distance, through a perceptron.

    Called like `Ranker`. One layer without attention to content: the smallest and fastest.
    """

    causal: Tensor
    distance_index: Tensor

    def __init__(self, dimensions: int, max_length: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.entry = EventEmbedding(dimensions, dropout)
        self.distance = nn.Parameter(-0.2 * torch.arange(max_length).float())
        self.up, self.out = nn.Linear(2 * dimensions, 4 * dimensions), nn.Linear(4 * dimensions, dimensions)
        self.drop = nn.Dropout(dropout)
        steps = torch.arange(max_length)
        self.register_buffer("distance_index", (steps[:, None] - steps[None]).clamp(min=0), persistent=False)
        self.register_buffer("causal", torch.triu(torch.full((max_length, max_length), -1e9), 1), persistent=False)

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """See `Ranker.forward`."""
        time = vectors.shape[1]
        x = self.entry(vectors, kinds)
        weights = self.distance[self.distance_index[:time, :time]] + self.causal[:time, :time]
        weights = weights.unsqueeze(0) + ((1 - mask) * -1e9).to(vectors.dtype)[:, None, :]
        both = torch.cat([weights.softmax(-1) @ x, x], dim=-1)
        user: Tensor = self.out(self.drop(functional.gelu(self.up(both))))
        return user


class MeanRanker(nn.Module):
    """The ranker of a pretrained bi-encoder; without weights. Called like `Ranker`.

    The user vector is the unit vector of the query or, without one, the mean of the unit vectors so far.
    """

    def __init__(self, dimensions: int, max_length: int, *, dropout: float = 0.0) -> None:  # noqa: ARG002 (no weights)
        super().__init__()

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """See `Ranker.forward`."""
        unit = functional.normalize(vectors, dim=-1)
        there = mask.unsqueeze(-1).to(vectors.dtype)
        means = (unit * there).cumsum(1) / there.cumsum(1).clamp(min=1)
        return torch.where((kinds == int(EventKind.QUERY)).unsqueeze(-1), unit, means)


RANKERS: dict[str, Callable[..., nn.Module]] = {
    "transformer": Ranker,
    "gru": GruRanker,
    "mlp": MlpRanker,
    "mean": MeanRanker,
}


def make_ranker(kind: str, dimensions: int, max_length: int, dropout: float = 0.2) -> nn.Module:
    """The ranker that `kind` means, with fresh weights; all of them map (vectors, kinds, mask) to user vectors."""
    return RANKERS[kind](dimensions, max_length, dropout=dropout)
