"""The engine of one bundle: sessions, catalogue and the pipeline's stages, put together in data-flow order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.batching.cost_model import Observation
from server.batching.scheduler import Limits
from server.catalogue.blend import Blend, Scoring
from server.catalogue.catalogue import Catalogue, IndexMode
from server.catalogue.memory import Memory
from server.catalogue.names import Names
from server.catalogue.words import Words
from server.domain import Recommendation, Request
from server.errors import BundleError, ConfigError, InternalError, SwiftrecError
from server.models.bundle import MANIFEST, RANKER, Bundle
from server.models.encoder import EncoderModel, Vector
from server.models.ranker import Kind, RankerModel, UserSequence
from server.models.session import Session, open_session
from server.models.tokenizer import Tokenizer
from server.pipeline.model_runner import Model, ModelRunner
from server.pipeline.recommend import run
from server.pipeline.request_state import RequestState, TextState
from server.pipeline.resolve import resolve, resolve_texts
from server.pipeline.stages import Stages
from server.pipeline.users import sample_users
from server.pipeline.vector_cache import VectorCache
from server.telemetry.metrics import BundleRecorder, Metrics

P = TypeVar("P")
_GRID_JOBS = (1, 2, 8, 32)
_GRID_LENGTHS = (4, 16, 64, 256)
_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where and how the models run; `sessions` 0 means one for each core on CPU, one on a GPU."""

    device: str = "cpu"
    variant: str | None = None
    sessions: int = 0
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    cache_bytes: int = _CACHE_BYTES
    index: IndexMode = "auto"
    parts_off: frozenset[str] = frozenset()  # parts of the score that do not count

    def session_count(self) -> int:
        """The number of sessions of each model."""
        cores = len(os.sched_getaffinity(0))
        return self.sessions or (max(1, cores // self.threads) if self.device == "cpu" else 1)


class Engine:
    """One bundle, loaded: models, catalogue and the pipeline's stages. `start` before the first `run`.

    Free of gRPC and of queues; resolved and run by one thread.

    Args:
        bundle: a verified bundle.
        options: where and how the models run.
        recorder: records what happens.
        open_session: opens the model at a path on a device.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions,
        *,
        recorder: BundleRecorder | None = None,
        open_session: Callable[[Path, str, int], Session] = open_session,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        manifest = bundle.manifest
        self._clock = clock
        self.bundle, self.options = bundle, options
        self.recorder = recorder or BundleRecorder(Metrics(), manifest.name, manifest.version)
        self.tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", manifest.max_tokens)
        self.catalogue = Catalogue.load(bundle.folder, manifest.sentence_dimensions)
        self._check_dimensions()
        self.scoring = load_scoring(bundle, self.catalogue, options.parts_off)
        encoder = open_session(bundle.encoder(options.device, options.variant), options.device, options.threads)
        ranker = open_session(bundle.folder / RANKER, options.device, options.threads)
        self._encoder = EncoderModel(encoder)
        self._ranker = RankerModel(ranker, manifest.dimensions)
        self.catalogue.index(options.index, self._sample_users)
        sessions = options.session_count()
        self._executor = ThreadPoolExecutor(sessions - 1, thread_name_prefix="model") if sessions > 1 else None

        def runner(model: Model[P], name: str) -> ModelRunner[P]:
            models = self.recorder.models
            return ModelRunner(
                model, options.limits, sessions=sessions, executor=self._executor, clock=clock, recorder=models[name]
            )

        cache = VectorCache(options.cache_bytes)
        self.recorder.cache_bytes = lambda: cache.size_bytes
        self.stages = Stages(
            tokenizer=self.tokenizer,
            encoder=runner(self._encoder, "encoder"),
            ranker=runner(self._ranker, "ranker"),
            catalogue=self.catalogue,
            scoring=self.scoring,
            names=Names(self.scoring.words, self.catalogue.sentences, manifest.same_item, self.catalogue.title),
            cache=cache,
            limits=options.limits,
            max_history=manifest.max_history,
            exclude_history=manifest.exclude_history,
            sessions=sessions,
            lookups=self.recorder,
            clock=clock,
        )

    def resolve(self, request: Request) -> RequestState:
        """The request with its items and tokens; see `server.pipeline.resolve`, which also says what is raised."""
        return resolve(self.stages, request)

    def resolve_texts(self, texts: Sequence[str]) -> list[TextState]:
        """The texts with their tokens, one state each."""
        return resolve_texts(self.stages, texts)

    def run(self, batch: Sequence[TextState]) -> None:
        """Answer a batch of resolved requests; see `server.pipeline.recommend`."""
        run(self.stages, batch)

    def recommend(self, requests: Sequence[Request]) -> list[Recommendation | SwiftrecError]:
        """Answer requests now, as one batch, in this thread: for tools that have no server."""
        found = [self._resolve_now(request) for request in requests]
        self.run([state for state in found if isinstance(state, RequestState)])
        return [answer_of(state) if isinstance(state, RequestState) else state for state in found]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts now, in this thread: both halves, float32 [texts, encoder dimensions].

        Raises:
            ModelFailed: the encoder cannot run one of them.
        """
        states = self.resolve_texts(texts)
        self.run(states)
        for state in states:
            if state.error:
                raise state.error
        return np.array([state.vectors[0] for state in states], dtype=np.float32)

    def start(self) -> None:
        """Start the threads of the models and warm up."""
        if self._executor:
            start_threads(self._executor, self.options.session_count() - 1)
        self.warm_up()

    def warm_up(self) -> None:
        """Run each model over a small grid, which seeds its cost model.

        Raises:
            BundleError: a model cannot be run.
        """
        manifest = self.bundle.manifest
        row = self.tokenizer.encode(["warm up"])[0]
        nothing = np.zeros(manifest.dimensions, dtype=np.float32)
        texts = _Grid(
            self._encoder,
            lambda length: (row * length)[:length],
            manifest.max_tokens,
            manifest.encoder_dimensions,
            self._clock,
        )
        users = _Grid(
            self._ranker,
            lambda length: UserSequence([nothing] * length, [Kind.ITEM] * length),
            manifest.max_history,
            manifest.dimensions,
            self._clock,
        )
        try:
            encoder = self.bundle.encoder(self.options.device, self.options.variant)
            self.stages.encoder.cost.seed(texts.measure(self.options.limits, encoder))
            self.stages.ranker.cost.seed(users.measure(self.options.limits, self.bundle.folder / RANKER))
        except BundleError:
            raise
        except Exception as error:
            raise BundleError(f"{self.bundle.folder}: a model cannot be run ({error})") from error

    def stop(self, timeout_s: float | None = None) -> None:  # noqa: ARG002 (an engine elsewhere may take its time)
        """End the threads of the models."""
        if self._executor:
            self._executor.shutdown(wait=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _resolve_now(self, request: Request) -> RequestState | SwiftrecError:
        try:
            state = self.resolve(request)
        except SwiftrecError as error:
            return error
        state.arrival = self._clock()
        return state

    def _check_dimensions(self) -> None:
        manifest, catalogue = self.bundle.manifest, self.catalogue
        found = catalogue.dimensions, catalogue.sentences.shape[1]
        if found != (manifest.dimensions, manifest.sentence_dimensions):
            raise BundleError(
                f"{self.bundle.folder}: item vectors have {found[0]} + {found[1]} dimensions, the manifest says "
                f"{manifest.dimensions} + {manifest.sentence_dimensions}: export it again"
            )

    def _sample_users(self) -> NDArray[np.float32]:
        def encode(texts: list[str]) -> Sequence[Vector]:
            return self._encoder.run(self.tokenizer.encode(texts))

        return sample_users(self._ranker, encode, self.catalogue, self.scoring, self.bundle.manifest.max_history)


def answer_of(state: RequestState) -> Recommendation | SwiftrecError:
    """How a request ended that was run."""
    if state.error:
        return state.error
    return state.result or InternalError("internal error")


def start_threads(executor: ThreadPoolExecutor, number: int) -> None:
    """Have a pool start its threads now: later there may be no room for one.

    Raises:
        ConfigError: the system allows no more threads.
    """
    gate = threading.Barrier(number + 1)
    try:
        for _ in range(number):
            executor.submit(gate.wait)
    except RuntimeError as error:
        gate.abort()
        raise ConfigError(f"the system allows no more threads ({error}): raise its limit or give fewer") from None
    gate.wait()


def load_scoring(bundle: Bundle, catalogue: Catalogue, parts_off: Collection[str] = ()) -> Scoring:
    """The parts of a bundle's score beside the ranker, without those that are switched off.

    Raises:
        BundleError: a table is missing or does not fit the catalogue, or the weights are of another form.
    """
    items = len(catalogue.items)
    try:
        blend = Blend.read(bundle.manifest.blend).without(parts_off)
    except ValueError as error:
        raise BundleError(f"{bundle.folder / MANIFEST}: blend: {error}: export it again") from None
    return Scoring(blend, Memory.load(bundle.folder, items), Words.load(bundle.folder, items), items)


class _Grid(Generic[P]):
    """Runs a model at several batch sizes and lengths."""

    def __init__(
        self,
        model: Model[P],
        job: Callable[[int], P],
        longest: int,
        dimensions: int,
        clock: Callable[[], float],
    ) -> None:
        self._model, self._job, self._longest, self._dimensions = model, job, longest, dimensions
        self._clock = clock

    def measure(self, limits: Limits, path: Path) -> Iterator[Observation]:
        """Measure each size within the limits, by the faster of two runs: the process may lose the CPU meanwhile.

        Raises:
            BundleError: the model, which is the file at `path`, answers NaN, infinity, or another shape.
        """
        for length in sorted({min(length, self._longest) for length in _GRID_LENGTHS}):
            for jobs in _GRID_JOBS:
                if jobs == 1 or (jobs <= limits.jobs and jobs * length <= limits.tokens):
                    batch = [self._job(length)] * jobs
                    seconds = min(self._run(batch, path) for _ in range(2))
                    yield Observation(jobs, length, seconds)

    def _run(self, batch: list[P], path: Path) -> float:
        """Run the model once; its time in seconds."""
        started = self._clock()
        made = self._model.run(batch)
        seconds = self._clock() - started
        shape = (len(made), *made[0].shape)
        if shape != (len(batch), self._dimensions):
            found = f"{list(shape)} for {len(batch)} rows of {self._dimensions} dimensions"
            raise BundleError(f"{path}: the model answers {found}: export it again")
        if not np.isfinite(made).all():
            raise BundleError(f"{path}: the model answers NaN or infinity: export it again")
        return seconds
