"""The teacher as one module with one pass of BERT, like the students."""

from __future__ import annotations

import torch
from torch import Tensor

from swiftrec.export.job import Job
from swiftrec.export.models.encoder import TextEncoder, load_bert, teacher_checkpoint
from swiftrec.export.models.sentence_space import load_sentences, sample_rows
from swiftrec.export.models.teacher import load_teacher
from swiftrec.export.models.teacher_files import load_pooled

_RIDGE = 1e-3  # of the mean square of the pooled vectors


def one_pass_teacher(job: Job) -> TextEncoder:
    """The tuned BERT with both halves of a text's vector.

    The ranker half is the teacher's. The sentence half approximates the untuned checkpoint's by ridge regression from
    the tuned BERT. Students start with its weights, and PyTorch is timed with it.
    """
    folder = job.folder("finetune")
    teacher = load_teacher(folder)
    pooled = load_pooled(folder)
    sentences, rows = load_sentences(folder, len(pooled)), sample_rows(len(pooled), job.settings.seed)
    encoder = TextEncoder(load_bert(teacher_checkpoint(job)), teacher.projection.out_features, sentences.shape[1])
    readout = _fit(pooled[rows], torch.from_numpy(sentences[rows]))
    with torch.no_grad():
        encoder.projection.weight.copy_(torch.cat([teacher.projection.weight, readout]))
    return encoder.eval()


def _fit(pooled: Tensor, sentences: Tensor) -> Tensor:
    """Weights [d2, hidden] that map pooled vectors [texts, hidden] to sentence vectors [texts, d2]."""
    damping = _RIDGE * pooled.square().sum(0).mean() * torch.eye(pooled.shape[1])
    weights: Tensor = torch.linalg.solve(pooled.T @ pooled + damping, pooled.T @ sentences)
    return weights.T
