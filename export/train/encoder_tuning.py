"""Fine-tunes BERT after the head: the vector of each text moves towards the vector of its item.

The item vectors are fixed here, so that every step is a plain regression on a few texts. Afterwards each item's
residual is reduced by what the text now encodes: item vectors, and with them all results for histories of ids, stay the
same. Phrases keep their vectors, and items without interactions have no residual.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swiftrec.export.data.text_variants import TextVariant
from swiftrec.export.models.backbone import Backbone, batch_count
from swiftrec.export.models.bucketing import shuffled
from swiftrec.export.models.teacher import Teacher, TextFeatures
from swiftrec.export.progress import Bars, no_bars
from swiftrec.export.train.fgm import worst_perturbation, zero_perturbation
from swiftrec.export.train.optimisers import ParameterGroup, Schedule
from swiftrec.export.train.training_data import TrainingData
from swiftrec.export.train.validation import Validation, index_training_users, validate
from swiftrec.export.training_settings import TrainingSettings

MAX_PASS_BATCHES = 500  # of a pass, as of an epoch over the histories: 32,000 texts
_PASS_BAR, _ENCODE_BAR = "texts of a pass", "encode texts"
_PHRASE_SHARE = 0.1  # of the texts of a pass


class EncoderTuner:
    """Trains the tuned layers of a backbone towards the items of a trained teacher (see `export.train.fit`).

    Args:
        settings: rates and sizes.
        data: what the teacher was trained on.
        backbone: encodes the rows of `data.augmented.all`.
        teacher: trained; its residuals change in `finish`.
        pooled: the vectors [texts, hidden] that the teacher was trained on; `validate` overwrites those of titles.
        seed: of the draw of texts.
        bars: show long computations.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        data: TrainingData,
        backbone: Backbone,
        teacher: Teacher,
        pooled: Tensor,
        seed: int,
        bars: Bars = no_bars,
    ) -> None:
        self._settings, self._data, self.module, self._teacher = settings, data, backbone, teacher
        self._bars, self._validation_titles = bars, _validation_titles(data, teacher.max_length - 1)
        self.pooled, self.rng = pooled, np.random.default_rng(seed)
        with torch.no_grad():
            self._items = teacher.all_item_vectors(data.item_rows(pooled))
            phrases = teacher.text_vectors(pooled[data.augmented.rows.phrases])
            self._goals = torch.cat([functional.normalize(self._items, dim=-1), phrases])
        tuned = [p for p in backbone.parameters() if p.requires_grad]
        rate, decay = settings.backbone_learning_rate, settings.backbone_weight_decay
        self.groups = [ParameterGroup(tuned, rate, decay)]

    @property
    def schedule(self) -> Schedule:
        """That of the settings."""
        settings = self._settings
        return Schedule(settings.passes, self._pass_batches, settings.accumulate, settings.warmup, settings.patience)

    @property
    def _pass_batches(self) -> int:
        return min(MAX_PASS_BATCHES, -(-len(self.module.lengths) // self._settings.texts_per_step))

    def batches(self, epoch: int) -> Iterator[list[int]]:  # noqa: ARG002 (drawn by `rng`)
        """A pass over as many texts as there are, or as one may read, drawn by popularity, in batches by length."""
        lengths, size = self.module.lengths, self._settings.texts_per_step
        drawn = self.rng.choice(len(lengths), self._pass_batches * size, p=_probabilities(self._data))
        with self._bars(_PASS_BAR, self._pass_batches) as step:
            for batch in shuffled(drawn, lengths, size, self.rng):
                step()
                yield batch

    def backward(self, batch: list[int], share: float) -> float:
        """Add the gradient of the loss and, with `--adversarial`, of the loss under the worst perturbation."""
        strength = self._settings.adversarial
        perturbation = zero_perturbation(self.module, batch) if strength else None
        loss = self._backward(batch, perturbation, share)
        if perturbation is not None:
            self._backward(batch, worst_perturbation(self.module, batch, perturbation, strength), share)
        return loss

    def _backward(self, texts: list[int], perturbation: Tensor | None, share: float) -> float:
        with torch.autocast(self._settings.train_device, torch.bfloat16, enabled=self._settings.mixed_precision):
            vectors = self._teacher.text_vectors(self.module(texts, perturbation))
        loss = 1 - (vectors * self.goals(texts)).sum(-1).mean()
        (loss * share).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def goals(self, texts: list[int]) -> Tensor:
        """The unit vectors, [texts, d], towards which these texts move: their items', and the phrases' present ones."""
        return self._goals[torch.as_tensor(self._data.augmented.rows.owners(texts))]

    def validate(self) -> Validation:
        """NDCG@10 on the validation items.

        Only the titles in the validation histories are encoded again: the item vectors are fixed.
        """
        with self._bars(_ENCODE_BAR, batch_count(self._validation_titles)) as step:
            self.module.encode_into(self.pooled, self._validation_titles, step)
        features = TextFeatures.of(self.pooled, self._data.augmented)
        return validate(self._teacher, features, self._data.split, self._teacher.max_length - 1)

    @torch.no_grad()
    def finish(self) -> None:
        """Encode all texts again, and reduce each residual by what the text now encodes."""
        with self._bars(_ENCODE_BAR, self.module.batches) as step:
            self.pooled = self.module.encode_all(step)
        texts = self._teacher.text_vectors(self._data.item_rows(self.pooled))
        self._teacher.residual.copy_((self._items - texts) * self._data.has_events.unsqueeze(1).to(texts))


def _validation_titles(data: TrainingData, max_history: int) -> NDArray[np.int64]:
    """Rows of `data.augmented.all` that `validate` reads as events."""
    histories = index_training_users(data.split.validation, data.items).histories
    items = np.unique(np.concatenate([history[-max_history:] for history in histories]))
    return data.augmented.rows.row(TextVariant.TITLE, items)


def _probabilities(data: TrainingData) -> NDArray[np.float64]:
    """The probability with which each text is drawn: 0 for items without interactions, as if they came later."""
    weights = np.tile(np.sqrt(data.popularity), data.augmented.rows.variants)
    phrases = len(data.texts.phrases) + len(data.texts.others)  # the other texts keep their vectors, too
    share = _PHRASE_SHARE if phrases else 0.0
    return np.concatenate([(1 - share) * weights / weights.sum(), np.full(phrases, share / max(1, phrases))])
