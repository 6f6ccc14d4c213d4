"""How user vectors are held against the items that were taken: the losses, and the items that a step looks at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Among:
    """The items that a step looks at, and where each item of the catalogue stands among them.

    Args:
        items: int64 [among], positions in the catalogue, ascending.
        place: int64 [catalogue], place in `items`; -1 for those that are not there.
        drawn: float32 [among], how often each was expected to be drawn as a negative; None if none are drawn.
    """

    items: Tensor
    place: Tensor
    drawn: Tensor | None = None

    @classmethod
    def all(cls, is_taken: Tensor) -> Among:
        """Every item that somebody took, bool [catalogue]: what nobody could take yet is no wrong answer."""
        place = torch.where(is_taken, is_taken.cumsum(0) - 1, -1)
        return cls(is_taken.nonzero().flatten(), place)


class Negatives:
    """Draws items that somebody took by popularity to the power of 3/4 (Mikolov et al., 2013), with replacement."""

    def __init__(self, popularity: Tensor, size: int) -> None:
        weights = popularity.float() ** 0.75
        self._chance = weights / weights.sum()
        self._size = size

    def draw(self, needed: Tensor) -> Among:
        """Negatives, and the items that the step needs anyway (int64, any shape); those were not drawn: 0."""
        drawn = torch.multinomial(self._chance, self._size, replacement=True)
        items = torch.unique(torch.cat([drawn, needed.flatten()]))
        place = torch.full((len(self._chance),), -1, dtype=torch.int64)
        place[items] = torch.arange(len(items))
        counts = torch.bincount(place[drawn], minlength=len(items))
        # Each draw of j stands for 1 / (size * chance) items: what was drawn twice counts twice.
        return Among(items, place, counts / (self._size * self._chance[items]).clamp(min=1e-12))


def softmax(users: Tensor, items: Tensor, taken: Tensor) -> Tensor:
    """-log P(taken) over all items; users [n, d], items [m, d], taken int64 [n]."""
    return functional.cross_entropy(users @ items.T, taken)


def sampled_softmax(users: Tensor, items: Tensor, taken: Tensor, drawn: Tensor) -> Tensor:
    """-log P(taken), the sum over the catalogue estimated from negatives that were drawn with a known chance.

    The logQ correction (Bengio and Senecal, 2008): a negative's logit grows by log(draws / (size * chance)), so that
    the estimated sum is right on average; the item that was taken counts once, as itself.
    """
    logits = users @ items.T + drawn.log()  # -inf: not drawn
    own = (users * items[taken]).sum(-1)
    logits = logits.scatter(1, taken.unsqueeze(1), own.unsqueeze(1))
    return functional.cross_entropy(logits, taken)


def squared_error(users: Tensor, items: Tensor, taken: Tensor, drawn: Tensor | None, worth: Tensor) -> Tensor:
    """Mean squared distance of the scores from `worth` [n] for what was taken and 0 for the rest, half and half."""
    scores = users @ items.T
    own = scores.gather(1, taken.unsqueeze(1))
    rest = torch.ones_like(scores) if drawn is None else (drawn > 0).to(scores.dtype).expand(scores.shape)
    rest = rest.scatter(1, taken.unsqueeze(1), 0.0)
    return ((own - worth.to(own.dtype).unsqueeze(1)) ** 2).mean() + (rest * scores**2).sum() / rest.sum().clamp(min=1)


def against(kind: str, users: Tensor, items: Tensor, taken: Tensor, drawn: Tensor | None, worth: Tensor) -> Tensor:
    """The loss that `kind` means; `drawn` is None where `items` are the whole catalogue. Only "mse" reads `worth`."""
    if kind == "mse":
        return squared_error(users, items, taken, drawn, worth)
    return softmax(users, items, taken) if drawn is None else sampled_softmax(users, items, taken, drawn)
