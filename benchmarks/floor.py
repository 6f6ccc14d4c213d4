"""`python -m benchmarks floor`: what the same texts cost offline, at best: the lower limit for any server.

One thread on one core, with the tokenizer, the encoder and the session of the server: all texts are tokenised, sorted
by length and run in batches; the batch size that takes the least CPU time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.machine import pinned
from benchmarks.process import SERVER_CORE
from benchmarks.workload import texts
from server.models.bundle import load_bundle
from server.models.encoder import EncoderModel
from server.models.session import open_session
from server.models.tokenizer import Tokenizer

_WARMUP_TEXTS = 64


class FloorSettings(BaseSettings):
    """CPU time per text offline: one thread, sorted by length, best batch size."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks floor", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder precision; the bundle's default if not given")
    texts: int = Field(1_000, ge=1, description="texts of 3 to 60 words")
    batch: list[int] = Field([1, 2, 4, 8, 16, 32], description="batch sizes that are tried")
    seed: int = Field(7, description="of the texts; the load generator with this seed begins with the same ones")
    core: int = Field(SERVER_CORE, ge=0, description="core that it runs on")


@dataclass(frozen=True, slots=True)
class Floor:
    """CPU time per text in microseconds: tokenising, the whole with each batch size, the whole with the best one."""

    mean_tokens: float
    tokenise_us: float
    by_batch_us: dict[int, float]
    best_batch: int
    floor_us: float


def run(settings: FloorSettings) -> int:
    """Measure and write the table."""
    with pinned(settings.core):  # before the session's threads start
        floor = measure_floor(settings)
    rows = [[str(size), f"{us:.0f}", f"{1e6 / us:.0f}"] for size, us in floor.by_batch_us.items()]
    text = report.table(["batch", "us per text", "texts/s"], rows)
    facts = f"{floor.mean_tokens:.1f} tokens per text, tokenising alone {floor.tokenise_us:.0f} us"
    best = f"floor {floor.floor_us:.0f} us (batch {floor.best_batch})"
    report.write(f"{text}\n{facts}; {best}", asdict(floor))
    return 0


def measure_floor(settings: FloorSettings) -> Floor:
    """Measure in this process, on the cores it may use."""
    bundle = load_bundle(settings.bundle)
    tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", bundle.manifest.max_tokens)
    encoder = EncoderModel(open_session(bundle.encoder("cpu", settings.variant), "cpu"))
    asked = texts(settings.bundle, settings.texts, settings.seed)
    _encode(encoder, tokenizer.encode(asked[:_WARMUP_TEXTS]), max(settings.batch))
    tokens: list[list[int]] = []
    tokenise = _cpu(lambda: tokens.extend(sorted(tokenizer.encode(asked), key=len)))
    share = 1e6 / len(asked)
    by_batch = {size: share * (tokenise + _cpu(partial(_encode, encoder, tokens, size))) for size in settings.batch}
    best = min(by_batch, key=by_batch.__getitem__)
    return Floor(float(np.mean([len(row) for row in tokens])), share * tokenise, by_batch, best, by_batch[best])


def _encode(encoder: EncoderModel, tokens: Sequence[list[int]], size: int) -> None:
    for start in range(0, len(tokens), size):
        encoder.run(tokens[start : start + size])


def _cpu(work: Callable[[], object]) -> float:
    """CPU seconds of the process that some work takes."""
    before = time.process_time()
    work()
    return time.process_time() - before
