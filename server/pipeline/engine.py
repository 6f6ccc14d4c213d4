"""The engine of a bundle: runs its models and searches its catalogue for a batch of requests."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.arrays import Vector
from swiftrec.server.batching.cost_model import Observation
from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.catalogue.blend import Scoring
from swiftrec.server.catalogue.catalogue import Catalogue, IndexMode
from swiftrec.server.catalogue.history import Names
from swiftrec.server.errors import BundleError, ConfigError
from swiftrec.server.models.bundle import RANKER, Bundle
from swiftrec.server.models.device import DEVICES
from swiftrec.server.models.networks import EncoderModel, EventKind, RankerModel, UserSequence
from swiftrec.server.models.session import Session
from swiftrec.server.models.tokenizer import Tokenizer
from swiftrec.server.pipeline.index_training import index_training_users
from swiftrec.server.pipeline.model_runner import Model, ModelRunner
from swiftrec.server.pipeline.recommend import run
from swiftrec.server.pipeline.request_state import TextState
from swiftrec.server.pipeline.stages import Stages, VectorCache
from swiftrec.server.telemetry.metrics import BundleRecorder

P = TypeVar("P")
_GRID_SIZES = (1, 2, 8, 32)
_GRID_LENGTHS = (4, 16, 64, 256)
_CACHE_BYTES = 64 * 2**20


class Engine(Protocol):
    """Runs models and search for a recommender, in this process or elsewhere."""

    def start(self) -> None:
        """Start threads and warm up the models."""

    def run(self, users: Sequence[TextState], /) -> None:
        """Set the vectors of texts and the best items of requests, best first; an error affects only its request."""

    def stop(self, timeout_s: float | None = None) -> None:
        """Release the models."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the models run; `sessions` 0 means one for each core on CPU, one on a GPU."""

    device: str = "cpu"
    variant: str | None = None
    sessions: int = 0
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    cache_bytes: int = _CACHE_BYTES
    index: IndexMode = "auto"
    parts_off: frozenset[str] = frozenset()  # parts of the score that are switched off

    def session_count(self) -> int:
        """The number of sessions of each model."""
        cores = len(os.sched_getaffinity(0))
        return self.sessions or (max(1, cores // self.threads) if DEVICES[self.device].uses_cores else 1)


class LocalEngine:
    """Runs ONNX Runtime in this process; made by `open_engine`. Must be used by one thread.

    Args:
        bundle: a verified bundle.
        options: how the models run.
        encoder, ranker: the bundle's models.
        stages: the stages of the pipeline.
        executor: runs batches of a model in parallel; None: they run one after the other.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions,
        encoder: EncoderModel,
        ranker: RankerModel,
        stages: Stages,
        executor: ThreadPoolExecutor | None,
        clock: Callable[[], float],
    ) -> None:
        self._bundle, self._options, self._clock = bundle, options, clock
        self._encoder, self._ranker, self._executor = encoder, ranker, executor
        self.stages = stages

    def start(self) -> None:
        """Start the threads of the models and warm them up."""
        if self._executor:
            start_threads(self._executor, self._options.session_count() - 1)
        self.warm_up()

    def run(self, users: Sequence[TextState]) -> None:
        """Set vectors and items; see `server.pipeline.recommend`."""
        run(self.stages, users)

    def stop(self, timeout_s: float | None = None) -> None:  # noqa: ARG002 (remote engines need it)
        """End the threads of the models."""
        if self._executor:
            self._executor.shutdown(wait=False)

    def warm_up(self) -> None:
        """Run each model over a small grid of sizes, to fit its cost model.

        Raises:
            BundleError: a model cannot be run.
        """
        manifest, stages, limits = self._bundle.manifest, self.stages, self._options.limits
        row = stages.tokenizer.encode(["warm up"])[0]
        zeros = np.zeros(manifest.dimensions, dtype=np.float32)

        def text(length: int) -> Sequence[int]:
            return (row * length)[:length]

        def user(length: int) -> UserSequence:
            return UserSequence([zeros] * length, [EventKind.ITEM] * length)

        texts = _Grid(self._encoder, text, manifest.max_tokens, manifest.encoder_dimensions, self._clock)
        users = _Grid(self._ranker, user, manifest.max_history, manifest.dimensions, self._clock)
        try:
            encoder = self._bundle.encoder(self._options.device, self._options.variant)
            stages.encoder.cost.seed(texts.measure(limits, encoder))
            stages.ranker.cost.seed(users.measure(limits, self._bundle.folder / RANKER))
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"{self._bundle.folder}: a model cannot be run ({error})") from error


def open_engine(
    bundle: Bundle,
    options: EngineOptions,
    tokenizer: Tokenizer,
    catalogue: Catalogue,
    scoring: Scoring,
    *,
    recorder: BundleRecorder,
    open_session: Callable[[Path, str, int], Session],
    clock: Callable[[], float] = time.monotonic,
) -> LocalEngine:
    """Open the models of a bundle, and index its catalogue if the options say so.

    Args:
        bundle: a verified bundle.
        options: how the models run.
        tokenizer: the bundle's.
        catalogue: the bundle's.
        scoring: the bundle's.
        recorder: records batches and cache look-ups.
        open_session: opens the model at a path on a device.
        clock: seconds, monotonic.

    Raises:
        BundleError, ProviderError: a model cannot be opened.
    """
    manifest, sessions = bundle.manifest, options.session_count()
    encoder_path = bundle.encoder(options.device, options.variant)
    encoder = EncoderModel(open_session(encoder_path, options.device, options.threads))
    ranker_session = open_session(bundle.folder / RANKER, options.device, options.threads)
    ranker = RankerModel(ranker_session, manifest.dimensions)
    executor = ThreadPoolExecutor(sessions - 1, thread_name_prefix="model") if sessions > 1 else None

    def runner(model: Model[P], name: str) -> ModelRunner[P]:
        return ModelRunner(
            model,
            options.limits,
            sessions=sessions,
            executor=executor,
            clock=clock,
            recorder=recorder.models[name],
        )

    cache = VectorCache(options.cache_bytes)
    recorder.cache_bytes = lambda: cache.size_bytes
    stages = Stages(
        tokenizer=tokenizer,
        encoder=runner(encoder, "encoder"),
        ranker=runner(ranker, "ranker"),
        catalogue=catalogue,
        scoring=scoring,
        names=Names(scoring.words, catalogue.sentences, manifest.same_item, catalogue.title),
        cache=cache,
        limits=options.limits,
        max_history=manifest.max_history,
        exclude_history=manifest.exclude_history,
        sessions=sessions,
        lookups=recorder,
        clock=clock,
    )
    catalogue.index(options.index, lambda: _sample_users(encoder, ranker, stages))
    return LocalEngine(bundle, options, encoder, ranker, stages, executor, clock)


def _sample_users(encoder: EncoderModel, ranker: RankerModel, stages: Stages) -> NDArray[np.float32]:
    """User vectors to train the index on."""

    def encode(texts: list[str]) -> Sequence[Vector]:
        return encoder.run(stages.tokenizer.encode(texts))

    return index_training_users(ranker, encode, stages.catalogue, stages.scoring, stages.max_history)


def start_threads(executor: ThreadPoolExecutor, number: int) -> None:
    """Start all threads of a pool now, so that none can fail to start later.

    Raises:
        ConfigError: the system allows no more threads.
    """
    gate = threading.Barrier(number + 1)
    try:
        for _ in range(number):
            executor.submit(gate.wait)
    except RuntimeError as error:
        gate.abort()
        raise ConfigError(
            f"the system allows no more threads ({error}): raise the limit or configure fewer threads"
        ) from None
    gate.wait()


class _Grid(Generic[P]):
    """Measures a model at several batch sizes and lengths."""

    def __init__(
        self,
        model: Model[P],
        row: Callable[[int], P],
        longest: int,
        dimensions: int,
        clock: Callable[[], float],
    ) -> None:
        self._model, self._row, self._longest, self._dimensions = model, row, longest, dimensions
        self._clock = clock

    def measure(self, limits: Limits, path: Path) -> Iterator[Observation]:
        """Measure each size within the limits: the faster of two runs, since the process may lose the CPU.

        Raises:
            BundleError: the model at `path` returns NaN, infinity, or a wrong shape.
        """
        for length in sorted({min(length, self._longest) for length in _GRID_LENGTHS}):
            for size in _GRID_SIZES:
                if size == 1 or (size <= limits.batch_size and size * length <= limits.tokens):
                    batch = [self._row(length)] * size
                    seconds = min(self._run(batch, path) for _ in range(2))
                    yield Observation(size, length, seconds)

    def _run(self, batch: list[P], path: Path) -> float:
        """Run the model once; returns the time in seconds."""
        started = self._clock()
        outputs = self._model.run(batch)
        seconds = self._clock() - started
        shape = (len(outputs), *outputs[0].shape)
        if shape != (len(batch), self._dimensions):
            expected = f"{len(batch)} rows of {self._dimensions} dimensions"
            raise BundleError(f"{path}: the model returns {list(shape)} for {expected}: export it again")
        if not np.isfinite(outputs).all():
            raise BundleError(f"{path}: the model returns NaN or infinity: export it again")
        return seconds
