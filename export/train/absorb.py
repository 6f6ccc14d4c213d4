"""BERT learns to write each text where its item is, after the head was trained on the vectors that BERT gave first.

The items' vectors stand still here, so there is nothing to be stale: every step is a plain regression on a few texts.
What the text now says by itself is taken out of the item's residual, so that item vectors, and with them every answer
to a history of ids, stay as they are; phrases keep the vectors that they had. Items that nobody took have no residual.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.train.batches import shuffled
from export.train.optimise import Rate, optimiser_tensors, restore_optimiser
from export.train.options import TrainingSettings
from export.train.resume import Facts, cut, under
from export.train.teacher import Bank, Teacher
from export.train.trunk import MovingTrunk
from export.train.validate import Validation, validate
from export.train.world import World

_BATCH = 64
_PHRASES = 0.1  # share of the texts that are phrases


class Absorber:
    """Trains the layers of `trunk` that move, towards the items of a teacher that is trained."""

    def __init__(
        self, settings: TrainingSettings, world: World, trunk: MovingTrunk, teacher: Teacher, pooled: Tensor, seed: int
    ) -> None:
        """`pooled` [texts, hidden] are the vectors that the teacher was trained on."""
        self._settings, self._world, self._trunk, self._teacher = settings, world, trunk, teacher
        self.pooled, self.step = pooled, 0
        self._rng = np.random.default_rng(seed)
        with torch.no_grad():
            before = teacher.text_vectors(pooled)
            self._items = before[: world.items] + teacher.residual
            self._goals = _goals(before, self._items, world)
        moving = [p for p in trunk.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(moving, lr=settings.trunk_learning_rate, weight_decay=0.01)
        self._rate = Rate(self._optimiser, settings.passes * self._batches_a_pass, settings.warmup)

    @property
    def _batches_a_pass(self) -> int:
        return -(-len(self._goals) // _BATCH)

    def epoch(self) -> float:
        """As many texts as there are, drawn by their items' popularity; the mean cosine distance."""
        losses = []
        for texts in self._batches():
            self._rate.set(self.step)
            with torch.autocast(self._settings.train_device, torch.bfloat16, enabled=self._settings.mixed_precision):
                vectors = self._teacher.text_vectors(self._trunk(texts))
            loss = 1 - (vectors * self._goals[texts]).sum(-1).mean()
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimiser.step()
            self.step += 1
            losses.append(float(loss.detach()))
        return float(np.mean(losses))

    def _batches(self) -> Iterator[list[int]]:
        """Texts of similar length together, in random order."""
        lengths = self._trunk.lengths
        drawn = self._rng.choice(len(lengths), self._batches_a_pass * _BATCH, p=_shares(self._world))
        yield from shuffled(drawn, lengths, _BATCH, self._rng)

    def validate(self) -> Validation:
        """NDCG@10 on the items that validate."""
        self.finish()
        bank = Bank.cut(self.pooled, self._world.ways)
        return validate(self._teacher, bank, self._world.split, self._teacher.max_length - 1)

    @torch.no_grad()
    def finish(self) -> None:
        """Encode every text again, and leave in each residual what the text does not say."""
        self.pooled = self._trunk.all()
        texts = self._teacher.text_vectors(self.pooled[: self._world.items])
        self._teacher.residual.copy_((self._items - texts) * self._world.is_taken.unsqueeze(1).to(texts))

    def _weights(self) -> dict[str, Tensor]:
        return {name: p for name, p in self._trunk.named_parameters() if p.requires_grad}

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now."""
        return {name: tensor.detach().clone() for name, tensor in self._weights().items()}

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the trunk."""
        for name, parameter in self._weights().items():
            parameter.copy_(weights[name])

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """What a stopped run needs."""
        tensors = under("weights", self._weights()) | under("optimiser", optimiser_tensors(self._optimiser))
        return tensors, {"step": self.step, "random": self._rng.bit_generator.state}

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` gave."""
        self.put(cut(tensors, "weights"))
        restore_optimiser(self._optimiser, cut(tensors, "optimiser"))
        self.step = facts["step"]
        self._rng.bit_generator.state = facts["random"]


def _goals(before: Tensor, items: Tensor, world: World) -> Tensor:
    """Where each text shall be, unit vectors [texts, dimensions]: at its item; phrases where they were."""
    ways = len(world.ways.variants)
    return torch.cat([functional.normalize(items, dim=-1).repeat(ways, 1), before[ways * world.items :]])


def _shares(world: World) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The chance with which each text is drawn: none for items that nobody took, as if they came later."""
    often = np.tile(np.sqrt(world.popularity), len(world.ways.variants))
    phrases = len(world.texts.phrases) + len(world.texts.others)  # and other texts, which stay where they are, too
    share = _PHRASES if phrases else 0.0
    return np.concatenate([(1 - share) * often / often.sum(), np.full(phrases, share / max(1, phrases))])
