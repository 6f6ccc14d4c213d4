"""The ranker of a recommender that was trained for texts alone: nothing in it is learned."""

from __future__ import annotations

from torch import Tensor, nn, where
from torch.nn import functional

from swiftrec.server.models.networks import Kind


class MeanRanker(nn.Module):
    """The vector of the query if one was asked, else the mean of the unit vectors so far. Called as `Ranker` is."""

    def __init__(self, dimensions: int, max_length: int, *, dropout: float = 0.0) -> None:  # noqa: ARG002 (no weights)
        super().__init__()

    def forward(self, vectors: Tensor, kinds: Tensor, mask: Tensor) -> Tensor:
        """See `Ranker.forward`."""
        unit = functional.normalize(vectors, dim=-1)
        there = mask.unsqueeze(-1).to(vectors.dtype)
        means = (unit * there).cumsum(1) / there.cumsum(1).clamp(min=1)
        return where((kinds == int(Kind.QUERY)).unsqueeze(-1), unit, means)
