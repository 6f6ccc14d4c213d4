"""The PyTorch teacher as it runs without an export: eager, fp32, one thread, padded to the longest text."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from swiftrec.export.job import Job
from swiftrec.export.models.encoder import pad
from swiftrec.export.models.one_pass import one_pass_teacher


class TorchTeacher:
    """Token ids to vectors of both halves, through the tuned BERT."""

    def __init__(self, job: Job) -> None:
        self._module = one_pass_teacher(job)

    def run(self, jobs: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Pad to the longest and run."""
        with torch.inference_mode():
            return list(self._module(*pad([list(job) for job in jobs])).numpy())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread, as the graphs are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
