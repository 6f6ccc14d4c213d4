"""`python -m benchmarks gaps`: how long a session stands still between two batches while work waits.

The batcher decides a batch when a session is free (docs/decisions/004); the gap is what a batch prepared in advance
could save at most: answering the last batch, planning and padding the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.texts import texts
from server.batching.batcher import Batcher
from server.batching.policy import Limits
from server.models.bundle import load_bundle
from server.models.encoder import EncoderModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

_DEADLINE_S = 600.0
Vector = NDArray[np.float32]


class GapsSettings(BaseSettings):
    """Time between two batches of one session under a backlog, as a share of a batch."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks gaps", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder, as the server's --variant")
    texts: int = Field(1_500, ge=100, description="texts of 3 to 60 words")
    in_flight: int = Field(64, ge=2, le=1_000, description="jobs that wait or run at any time")
    repeats: int = Field(3, ge=1, description="rounds")
    seed: int = Field(7, description="of the texts")


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each batch ran, in seconds, float64 [batches]."""

    started: NDArray[np.float64]
    ended: NDArray[np.float64]

    def gap_us(self) -> NDArray[np.float64]:
        """Between two batches, in microseconds, [batches - 1]."""
        return 1e6 * (self.started[1:] - self.ended[:-1])

    def share(self) -> float:
        """Of the time that the session stood still."""
        return float(1e-6 * self.gap_us().sum() / (self.ended[-1] - self.started[0]))


class _Timed:
    """The encoder, with a note of each run."""

    def __init__(self, model: EncoderModel) -> None:
        self._model = model
        self.runs: list[tuple[float, float]] = []

    def run(self, jobs: Sequence[Sequence[int]]) -> list[Vector]:
        started = time.monotonic()
        vectors = self._model.run(jobs)
        self.runs.append((started, time.monotonic()))
        return vectors


def run(settings: GapsSettings) -> int:
    """Write the table."""
    bundle = load_bundle(settings.bundle)
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
    model = EncoderModel(open_session(bundle.encoder("cpu", settings.variant)))
    rows = tokenizer.encode(texts(settings.bundle, settings.texts, settings.seed))
    model.run(rows[:8])
    lines = [timeline(model, rows, settings.in_flight) for _ in range(settings.repeats)]
    gaps = np.concatenate([line.gap_us() for line in lines])
    shares = [line.share() for line in lines]
    batch_ms = 1e3 * float(np.mean(np.concatenate([line.ended - line.started for line in lines])))
    p50, p99 = (float(value) for value in np.percentile(gaps, [50, 99]))
    text = report.table(
        ["batches", "batch ms", "gap p50 us", "gap p99 us", "share of the time"],
        [[str(len(gaps) + len(lines)), f"{batch_ms:.2f}", f"{p50:.0f}", f"{p99:.0f}", report.spread(shares, 4)]],
    )
    report.write(text, {"gap_p50_us": p50, "gap_p99_us": p99, "batch_ms": batch_ms, "shares": shares})
    return 0


def timeline(model: EncoderModel, rows: Sequence[Sequence[int]], in_flight: int) -> Timeline:
    """Run all rows through a batcher of one session with `in_flight` of them there at any time."""
    timed, slots = _Timed(model), threading.Semaphore(in_flight)
    batcher: Batcher[Sequence[int], Vector] = Batcher("gaps", timed, Limits(), admit=lambda *_: None)
    batcher.start()
    for row in rows:
        slots.acquire()
        batcher.submit(row, len(row), time.monotonic() + _DEADLINE_S, lambda _result: slots.release())
    batcher.stop()
    started, ended = zip(*timed.runs, strict=True)
    return Timeline(np.array(started), np.array(ended))
