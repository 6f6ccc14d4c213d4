"""The PyTorch teacher as one would run it without an export: eager, fp32, one thread, padded to the longest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from export.stage import Job
from export.train.encoder import TextEncoder, load_trunk, pad, teacher_checkpoint
from export.train.teacher import load_teacher


class TorchTeacher:
    """Token ids to unit vectors, through the tuned BERT and the teacher's projection."""

    def __init__(self, job: Job) -> None:
        teacher = load_teacher(job.folder("finetune"))
        self._module = TextEncoder(load_trunk(teacher_checkpoint(job)), teacher.projection.out_features).eval()
        self._module.projection.load_state_dict(teacher.projection.state_dict())

    def run(self, jobs: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Pad to the longest and run."""
        with torch.inference_mode():
            return list(self._module(*pad([list(job) for job in jobs])).numpy())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Hold PyTorch to one thread, as the graphs are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
