"""Several teachers averaged: they guide the training of the last one.

Teachers that were trained apart have vector spaces of their own, so their vectors cannot be averaged, but their answers
can: the mean of their probabilities over the catalogue is what the last teacher learns beside the items that were taken
(Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). It has one vector space, as everything after it
needs. The guides always read item ids, so that it also learns to answer a history of texts as if the ids were known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swiftrec.export.models.teacher import Teacher
from swiftrec.export.train.samplers import Windows
from swiftrec.export.train.targets import Among
from swiftrec.server.models.networks import Kind


class Guides:
    """Teachers that are trained and fixed, each with its item vectors [items, dimensions]."""

    def __init__(self, teachers: list[tuple[Teacher, Tensor]]) -> None:
        self._teachers = [(teacher.eval().requires_grad_(requires_grad=False), items) for teacher, items in teachers]

    @torch.no_grad()
    def chances(self, batch: Windows, among: Among) -> Tensor:
        """Mean probability of each item that the step looks at, at every step that has a target; [steps, among]."""
        there = batch.targets >= 0
        kinds = torch.full_like(batch.items, int(Kind.ITEM))
        total = torch.zeros(())
        for teacher, items in self._teachers:
            users = teacher.ranker(items[batch.items], kinds, batch.mask)[there]
            total = total + (users @ items[among.items].T).float().softmax(-1)
        return total / len(self._teachers)
