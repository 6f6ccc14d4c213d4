"""The items that a training step scores: all with interactions, or a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Candidates:
    """The items that a training step scores.

    Args:
        items: int64 [candidates], positions in the catalogue, ascending.
        position: int64 [catalogue], position in `items`; -1 for the other items.
        draws: float32 [candidates], expected number of draws of each as a negative; None if none are drawn.
    """

    items: Tensor
    position: Tensor
    draws: Tensor | None = None

    @classmethod
    def all(cls, has_events: Tensor) -> Candidates:
        """Every item with interactions, bool [catalogue]: no user can have chosen the others yet."""
        position = torch.where(has_events, has_events.cumsum(0) - 1, -1)
        return cls(has_events.nonzero().flatten(), position)


class NegativeSampler:
    """Draws items by popularity to the power of 3/4 (Mikolov et al., 2013), with replacement."""

    def __init__(self, popularity: Tensor, size: int) -> None:
        weights = popularity.float() ** 0.75
        self._probability = weights / weights.sum()
        self._size = size

    def draw(self, needed: Tensor) -> Candidates:
        """Negatives, and the items that the step needs in any case (int64, any shape), whose `draws` are 0."""
        drawn = torch.multinomial(self._probability, self._size, replacement=True)
        items = torch.unique(torch.cat([drawn, needed.flatten()]))
        position = torch.full((len(self._probability),), -1, dtype=torch.int64)
        position[items] = torch.arange(len(items))
        counts = torch.bincount(position[drawn], minlength=len(items))
        # A draw of item j stands for 1 / (size * probability) items; an item that was drawn twice counts twice.
        return Candidates(items, position, counts / (self._size * self._probability[items]).clamp(min=1e-12))
