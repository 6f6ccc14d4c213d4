"""Throughput of several encoders: the same texts, one thread, in turns, so that a slow moment affects all of them.

The time is that from texts to vectors, tokenizer included. Texts are sorted by length and padded to the longest of
their batch. CPU time is measured, which other processes disturb less than wall time; on a GPU, wall time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from swiftrec.export.job import Job
from swiftrec.export.models.encoder import pad
from swiftrec.export.models.one_pass import one_pass_teacher
from swiftrec.export.progress import Clock
from swiftrec.server.models.tokenizer import Tokenizer

_BATCHES = (1, 4, 16)
_ROUNDS = 5


class Encoder(Protocol):
    """Token ids of some texts to one vector each."""

    def run(self, rows: Sequence[Sequence[int]], /) -> list[NDArray[np.float32]]:
        """Pad to the longest and run."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Seconds of each round for all texts in the best batch size, and milliseconds of each text alone."""

    seconds: list[float]
    texts: int
    alone_ms: list[float]

    @property
    def texts_per_s(self) -> float:
        """Median over the rounds."""
        return self.texts / float(np.median(self.seconds))

    @property
    def texts_per_s_range(self) -> tuple[float, float]:
        """The lowest and the highest round."""
        return self.texts / max(self.seconds), self.texts / min(self.seconds)

    @property
    def ms_batch1(self) -> float:
        """Median over the texts."""
        return float(np.median(self.alone_ms))

    def speedup(self, other: Throughput) -> float:
        """Speed divided by the other's: the median of the rounds' ratios."""
        return float(np.median(self._ratios(other)))

    def speedup_range(self, other: Throughput) -> tuple[float, float]:
        """The lowest and the highest of the rounds' ratios."""
        ratios = self._ratios(other)
        return float(ratios.min()), float(ratios.max())

    def _ratios(self, other: Throughput) -> NDArray[np.float64]:
        return np.divide(other.seconds, self.seconds)


def measure_throughput(
    encoders: dict[str, Encoder],
    tokenizer: Tokenizer,
    texts: Sequence[str],
    step: Callable[[], None],
    clocks: Mapping[str, Clock] = MappingProxyType({}),
) -> dict[str, Throughput]:
    """Measure all encoders; `step` is called after each of `rounds()` rounds.

    `clocks` are for encoders that do not run on the CPU.
    """
    sweeps = {
        name: partial(_sweep, encoder, tokenizer, clock=clocks.get(name, time.process_time))
        for name, encoder in encoders.items()
    }
    best = {name: _best_batch(sweep, texts) for name, sweep in sweeps.items()}  # warms up, too
    step()
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    alone: dict[str, list[float]] = {name: [] for name in encoders}
    for n in range(_ROUNDS):
        for name, sweep in sweeps.items():
            seconds[name].append(sweep(texts, best[name]))
            alone[name] += [1e3 * sweep([text], 1) for text in texts[n::_ROUNDS]]
        step()
    return {name: Throughput(seconds[name], len(texts), alone[name]) for name in encoders}


def rounds() -> int:
    """How often `race` calls `step`."""
    return _ROUNDS + 1


def _best_batch(sweep: Callable[[Sequence[str], int], float], texts: Sequence[str]) -> int:
    sweep(texts[:8], 4)
    times = {size: sweep(texts, size) for size in _BATCHES}
    return min(times, key=times.__getitem__)


def _sweep(encoder: Encoder, tokenizer: Tokenizer, texts: Sequence[str], size: int, clock: Clock) -> float:
    """Seconds from texts to vectors."""
    started = clock()
    rows = sorted(tokenizer.encode(texts), key=len)
    for n in range(0, len(rows), size):
        encoder.run(rows[n : n + size])
    return clock() - started


class TorchTeacher:
    """The PyTorch teacher as it runs without an export: eager, fp32, padded to the longest text; both halves."""

    def __init__(self, job: Job) -> None:
        self._module = one_pass_teacher(job)

    def run(self, rows: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Pad to the longest and run."""
        with torch.inference_mode():
            return list(self._module(*pad([list(row) for row in rows])).numpy())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit PyTorch to one thread, as the graphs are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
