"""The teacher as one module with one pass of BERT, as the students have it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from swiftrec.export.models.encoder import TextEncoder, load_trunk, teacher_checkpoint
from swiftrec.export.models.sentence_space import load_sentences, sample_rows
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.stages.runner import Job

_RIDGE = 1e-3  # of the mean square of the pooled vectors


def one_pass_teacher(job: Job) -> TextEncoder:
    """The tuned BERT, whose pooled vectors give both halves.

    The ranker half is the teacher's. The sentence half is near the untouched checkpoint's: a ridge regression reads it
    from the tuned BERT. Students start from it, and PyTorch is timed with it.
    """
    folder = job.folder("finetune")
    teacher = load_teacher(folder)
    pooled = np.load(folder / "pooled.npy", mmap_mode="r", allow_pickle=False)
    sentences, rows = load_sentences(folder, len(pooled)), sample_rows(len(pooled), job.settings.seed)
    encoder = TextEncoder(load_trunk(teacher_checkpoint(job)), teacher.projection.out_features, sentences.shape[1])
    readout = _fit(torch.from_numpy(pooled[rows]), torch.from_numpy(sentences[rows]))
    with torch.no_grad():
        encoder.projection.weight.copy_(torch.cat([teacher.projection.weight, readout]))
    return encoder.eval()


def _fit(pooled: Tensor, wanted: Tensor) -> Tensor:
    """Weights [d2, hidden] that read sentence vectors [texts, d2] from pooled ones [texts, hidden]."""
    damping = _RIDGE * pooled.square().sum(0).mean() * torch.eye(pooled.shape[1])
    weights: Tensor = torch.linalg.solve(pooled.T @ pooled + damping, pooled.T @ wanted)
    return weights.T
