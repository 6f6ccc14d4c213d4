"""Several teachers whose averaged predictions train one more, which is kept.

Teachers that were trained separately have different vector spaces, so their vectors cannot be averaged; the mean of
their probabilities over the catalogue is a second target of the last teacher (Hinton et al., "Distilling the Knowledge
in a Neural Network", 2015). The ensemble always reads item ids, so that the last teacher also learns to predict from a
history of texts as if the ids were known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swiftrec.export.models.teacher import Teacher
from swiftrec.export.train.candidates import Candidates
from swiftrec.export.train.samplers import Windows
from swiftrec.server.models.networks import EventKind


class TeacherEnsemble:
    """Trained teachers, each with its item vectors [items, dimensions]."""

    def __init__(self, teachers: list[tuple[Teacher, Tensor]]) -> None:
        self._teachers = [(teacher.eval().requires_grad_(requires_grad=False), items) for teacher, items in teachers]

    @torch.no_grad()
    def probabilities(self, windows: Windows, candidates: Candidates) -> Tensor:
        """Mean probability of each candidate at every step that has a target, [steps, candidates]."""
        has_target = windows.targets >= 0
        kinds = torch.full_like(windows.items, int(EventKind.ITEM))
        total = torch.zeros(())
        for teacher, items in self._teachers:
            users = teacher.ranker(items[windows.items], kinds, windows.mask)[has_target]
            total = total + (users @ items[candidates.items].T).float().softmax(-1)
        return total / len(self._teachers)
