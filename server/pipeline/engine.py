"""The engine of one bundle: sessions, batchers, catalogue and pipeline, put together in data-flow order."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.batching.batcher import Batcher
from server.batching.cost import Observation
from server.batching.job import Model
from server.batching.policy import Limits
from server.catalogue.blend import Blend, Scoring
from server.catalogue.catalogue import Catalogue, IndexMode
from server.catalogue.memory import Memory
from server.catalogue.names import Names
from server.catalogue.words import Words
from server.errors import BundleError
from server.models.bundle import MANIFEST, RANKER, Bundle
from server.models.encoder import EncoderModel, Vector
from server.models.ranker import Kind, RankerModel, UserSequence
from server.models.session import Session, open_session
from server.models.tokenizer import Tokenizer
from server.pipeline.encodings import Encodings
from server.pipeline.recommender import Recommender
from server.pipeline.steps import Parts
from server.pipeline.users import sample_users
from server.pipeline.wanted import Finder, Found, Wanted
from server.telemetry.collector import Snapshot
from server.telemetry.metrics import Metrics
from server.telemetry.watch import BundleWatch

P = TypeVar("P")
R = TypeVar("R")
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
    """Loads on construction; `start` warms up and runs the batchers; free of gRPC and of any event loop.

    Args:
        bundle: a verified bundle.
        options: where and how the models run.
        watch: hears what happens.
        on_death: called if a batching thread dies.
        open_session: opens the model at a path on a device.
        clock: seconds, monotonic; the one of the calls.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions,
        *,
        watch: BundleWatch | None = None,
        on_death: Callable[[], None] = lambda: None,
        open_session: Callable[[Path, str, int], Session] = open_session,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        facts = bundle.manifest
        self._clock = clock
        self.bundle, self.options = bundle, options
        self.watch = watch or BundleWatch(Metrics(), facts.name, facts.version)
        self.tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", facts.max_tokens)
        self.catalogue = Catalogue.load(bundle.folder, facts.sentence_dimensions)
        found = self.catalogue.dimensions, self.catalogue.sentences.shape[1]
        if found != (facts.dimensions, facts.sentence_dimensions):
            raise BundleError(
                f"{bundle.folder}: item vectors have {found[0]} + {found[1]} dimensions, the manifest says "
                f"{facts.dimensions} + {facts.sentence_dimensions}: export it again"
            )
        self.scoring = load_scoring(bundle, self.catalogue, options.parts_off)
        encoder = open_session(bundle.encoder(options.device, options.variant), options.device, options.threads)
        ranker = open_session(bundle.folder / RANKER, options.device, options.threads)
        self._encoder = EncoderModel(encoder)
        self._ranker = RankerModel(ranker, facts.dimensions)

        def sample() -> NDArray[np.float32]:
            def encode(texts: list[str]) -> list[Vector]:
                return self._encoder.run(self.tokenizer.encode(texts))

            return sample_users(self._ranker, encode, self.catalogue, self.scoring, facts.max_history)

        self.catalogue.index(options.index, sample)

        def batcher(name: str, model: Model[P, R]) -> Batcher[P, R]:
            sessions, watcher = options.session_count(), self.watch.models[name]
            return Batcher(
                name, model, options.limits, sessions=sessions, clock=clock, watcher=watcher, on_death=on_death
            )

        self.encode: Batcher[Sequence[int], Vector] = batcher("encoder", self._encoder)
        self.rank: Batcher[Wanted, Found] = batcher("ranker", Finder(self._ranker, self.catalogue, clock))
        self.encodings = Encodings(self.encode, options.cache_bytes, self.watch)
        parts = Parts(
            tokenizer=self.tokenizer,
            encodings=self.encodings,
            ranker=self.rank,
            catalogue=self.catalogue,
            scoring=self.scoring,
            names=Names(self.scoring.words, self.catalogue.sentences, facts.same_item, self.catalogue.title),
            max_history=facts.max_history,
            exclude_history=facts.exclude_history,
            clock=clock,
        )
        self.recommender = Recommender(parts, self.watch)

    def snapshots(self) -> Iterator[Snapshot]:
        """What each model holds and has done, for the metrics."""
        facts = self.bundle.manifest
        for model, batcher in (("encoder", self.encode), ("ranker", self.rank)):
            load = batcher.load()
            cached = self.encodings.cached_bytes if model == "encoder" else 0
            statistics = self.watch.models[model].statistics.snapshot()
            yield Snapshot(facts.name, facts.version, model, load.jobs, load.tokens, cached, statistics)

    def start(self) -> None:
        """Warm up, then take work."""
        self.warm_up()
        self.encode.start()
        self.rank.start()

    def warm_up(self) -> None:
        """Run each model over a small grid, which seeds its cost model.

        Raises:
            BundleError: a model cannot be run.
        """
        facts = self.bundle.manifest
        row = self.tokenizer.encode(["warm up"])[0]
        nothing = np.zeros(facts.dimensions, dtype=np.float32)
        texts = _Grid(
            self._encoder,
            lambda length: (row * length)[:length],
            facts.max_tokens,
            facts.encoder_dimensions,
            self._clock,
        )
        users = _Grid(
            self._ranker,
            lambda length: UserSequence([nothing] * length, [Kind.ITEM] * length),
            facts.max_history,
            facts.dimensions,
            self._clock,
        )
        try:
            self.encode.cost.seed(texts.measure(self.options.limits))
            self.rank.cost.seed(users.measure(self.options.limits))
        except Exception as error:
            raise BundleError(f"{self.bundle.folder}: a model cannot be run ({error})") from error

    def stop(self, timeout_s: float | None = None) -> None:
        """Finish what waits and stop, without waiting longer than `timeout_s`; texts first: ranking waits for them."""
        end = None if timeout_s is None else self._clock() + timeout_s
        self.encode.stop(timeout_s)
        self.rank.stop(None if end is None else max(0.0, end - self._clock()))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


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
        model: Model[P, Vector],
        job: Callable[[int], P],
        longest: int,
        dimensions: int,
        clock: Callable[[], float],
    ) -> None:
        self._model, self._job, self._longest, self._dimensions = model, job, longest, dimensions
        self._clock = clock

    def measure(self, limits: Limits) -> Iterator[Observation]:
        """The time of each size within the limits; the first run of a size warms it up and does not count."""
        for length in sorted({min(length, self._longest) for length in _GRID_LENGTHS}):
            for jobs in _GRID_JOBS:
                if jobs == 1 or (jobs <= limits.jobs and jobs * length <= limits.tokens):
                    batch = [self._job(length)] * jobs
                    shape = (len(made := self._model.run(batch)), *made[0].shape)
                    if shape != (jobs, self._dimensions):
                        raise ValueError(f"answered {list(shape)} for {jobs} rows of {self._dimensions} dimensions")
                    started = self._clock()
                    self._model.run(batch)
                    yield Observation(jobs, length, self._clock() - started)
