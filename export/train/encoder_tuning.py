"""BERT learns to write each text where its item is, after the head was trained on the vectors that BERT gave first.

The items' vectors stand still here, so there is nothing to be stale: every step is a plain regression on a few texts.
What the text now says by itself is taken out of the item's residual, so that item vectors, and with them every answer
to a history of ids, stay as they are; phrases keep the vectors that they had. Items that nobody took have no residual.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swiftrec.export.data.text_variants import TextVariant
from swiftrec.export.models.backbone import MovingTrunk, batches_of
from swiftrec.export.models.bucketing import shuffled
from swiftrec.export.models.teacher import Bank, Teacher
from swiftrec.export.progress import Bars, no_bars
from swiftrec.export.train.fgm import no_shift, worst_shift
from swiftrec.export.train.optimise import Descent, trunk_groups
from swiftrec.export.train.options import TrainingSettings
from swiftrec.export.train.resume import Facts
from swiftrec.export.train.training_data import World
from swiftrec.export.train.validation import Validation, some_users, validate

MAX_PASS_BATCHES = 500  # of a pass, as of an epoch over the histories: 32,000 texts
_PASS_BAR, _ENCODE_BAR = "texts of a pass", "encode texts"
_PHRASES = 0.1  # share of the texts that are phrases


class Absorber:
    """Trains the layers of `trunk` that move, towards the items of a teacher that is trained."""

    def __init__(
        self,
        settings: TrainingSettings,
        world: World,
        trunk: MovingTrunk,
        teacher: Teacher,
        pooled: Tensor,
        seed: int,
        bars: Bars = no_bars,
    ) -> None:
        """`pooled` [texts, hidden] are the vectors that the teacher was trained on; `bars` show what takes long."""
        self._settings, self._world, self._trunk, self._teacher = settings, world, trunk, teacher
        self._bars, self._validating = bars, _titles_that_validate(world, teacher.max_length - 1)
        self.pooled, self._rng = pooled, np.random.default_rng(seed)
        with torch.no_grad():
            self._items = teacher.item_vectors(teacher.text_vectors(pooled[: world.items]))
            phrases = teacher.text_vectors(pooled[world.ways.rows.first_phrase :])
            self._goals = torch.cat([functional.normalize(self._items, dim=-1), phrases])
        moving = {name: p for name, p in trunk.named_parameters() if p.requires_grad}
        groups = trunk_groups(settings, moving)
        self._descent = Descent(settings, groups, moving, settings.passes, self._batches_a_pass)

    @property
    def step(self) -> int:
        """Steps of the optimiser so far."""
        return self._descent.step

    @property
    def _batches_a_pass(self) -> int:
        return min(MAX_PASS_BATCHES, -(-len(self._trunk.lengths) // self._settings.encoded))

    def epoch(self) -> float:
        """A pass: as many texts as there are or as one may have, drawn by popularity; the mean cosine distance."""
        with self._bars(_PASS_BAR, self._batches_a_pass) as step:

            def learn(texts: list[int]) -> float:
                step()
                return self._learn(texts)

            return self._descent.epoch(self._batches(), learn)

    def _learn(self, texts: list[int]) -> float:
        """Add the batch's gradient to that of the weights."""
        strength = self._settings.adversarial
        shift = no_shift(self._trunk, texts) if strength else None
        loss = self._backward(texts, shift)
        if shift is not None:
            self._backward(texts, worst_shift(self._trunk, texts, shift, strength))
        return loss

    def _backward(self, texts: list[int], shift: Tensor | None) -> float:
        with torch.autocast(self._settings.train_device, torch.bfloat16, enabled=self._settings.mixed_precision):
            vectors = self._teacher.text_vectors(self._trunk(texts, shift))
        return self._descent.backward(1 - (vectors * self.goals_of(texts)).sum(-1).mean())

    def goals_of(self, texts: list[int]) -> Tensor:
        """Where these texts are drawn: to their items; phrases stay. Unit vectors, [texts, dimensions]."""
        rows, written = torch.as_tensor(texts), self._world.ways.rows.first_phrase
        goals = torch.where(rows < written, rows % self._world.items, rows - written + self._world.items)
        return self._goals[goals]

    def _batches(self) -> Iterator[list[int]]:
        """Texts of similar length together, in random order."""
        lengths, size = self._trunk.lengths, self._settings.encoded
        drawn = self._rng.choice(len(lengths), self._batches_a_pass * size, p=_shares(self._world))
        yield from shuffled(drawn, lengths, size, self._rng)

    def validate(self) -> Validation:
        """NDCG@10 on the items that validate, with the weights of `answer`.

        Only titles in the histories that validate are encoded again: the vectors of items stand still.
        """
        with self._descent.answering():
            with self._bars(_ENCODE_BAR, batches_of(self._validating)) as step:
                self._trunk.encode_into(self.pooled, self._validating, step)
            bank = Bank.cut(self.pooled, self._world.ways)
            return validate(self._teacher, bank, self._world.split, self._teacher.max_length - 1)

    @torch.no_grad()
    def finish(self) -> None:
        """Encode every text again, and leave in each residual what the text does not say."""
        with self._bars(_ENCODE_BAR, self._trunk.batches) as step:
            self.pooled = self._trunk.all(step)
        texts = self._teacher.text_vectors(self.pooled[: self._world.items])
        self._teacher.residual.copy_((self._items - texts) * self._world.is_taken.unsqueeze(1).to(texts))

    def answer(self) -> dict[str, Tensor]:
        """A copy of the weights that would be kept if training ended now."""
        return self._descent.answer()

    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy `weights` into the trunk."""
        self._descent.put(weights)

    def state(self) -> tuple[dict[str, Tensor], Facts]:
        """What a stopped run needs."""
        return self._descent.state(), {"step": self.step, "random": self._rng.bit_generator.state}

    def restore(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Go on from what `state` gave."""
        self._descent.restore(tensors, facts["step"])
        self._rng.bit_generator.state = facts["random"]


def _titles_that_validate(world: World, max_history: int) -> NDArray[np.int64]:
    """Rows of `world.ways.all` that `validate` reads as events."""
    histories = some_users(world.split.validation, world.items).histories
    items = np.unique(np.concatenate([history[-max_history:] for history in histories]))
    return world.ways.rows.start(TextVariant.TITLE) + items


def _shares(world: World) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The chance with which each text is drawn: none for items that nobody took, as if they came later."""
    often = np.tile(np.sqrt(world.popularity), len(world.ways.variants))
    phrases = len(world.texts.phrases) + len(world.texts.others)  # and other texts, which stay where they are, too
    share = _PHRASES if phrases else 0.0
    return np.concatenate([(1 - share) * often / often.sum(), np.full(phrases, share / max(1, phrases))])
