"""A loaded bundle: resolves requests and runs them on its engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from swiftrec.server.catalogue.blend import Blend, Scoring
from swiftrec.server.catalogue.catalogue import Catalogue
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.catalogue.words import Words
from swiftrec.server.domain import Recommendation, Request
from swiftrec.server.errors import BundleError, SwiftrecError
from swiftrec.server.models.bundle import MANIFEST, Bundle
from swiftrec.server.models.session import Session, open_session
from swiftrec.server.models.tokenizer import Tokenizer
from swiftrec.server.pipeline.engine import Engine, EngineOptions, open_engine
from swiftrec.server.pipeline.recommend import resolve, resolve_texts, to_result
from swiftrec.server.pipeline.request_state import RequestState, TextState
from swiftrec.server.telemetry.metrics import BundleRecorder, Metrics


class Recommender:
    """A loaded bundle. Call `start` before the first `run`.

    Has no queue; `resolve` and `run` must be called by one thread.

    Args:
        bundle: a verified bundle.
        options: how the models run.
        recorder: records batches and cache look-ups.
        open_session: opens the model at a path on a device.
        clock: seconds, monotonic.

    Attributes:
        engine: runs the models and the search.
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
        local = open_engine(
            bundle,
            options,
            self.tokenizer,
            self.catalogue,
            self.scoring,
            recorder=self.recorder,
            open_session=open_session,
            clock=clock,
        )
        self.engine: Engine = local
        self.stages = local.stages

    def resolve(self, request: Request) -> RequestState:
        """Resolve a request; see `server.pipeline.recommend.resolve`."""
        return resolve(self.stages, request)

    def resolve_texts(self, texts: Sequence[str]) -> list[TextState]:
        """Resolve texts to encode, one state for each."""
        return resolve_texts(self.stages, texts)

    def run(self, batch: Sequence[TextState]) -> None:
        """Run a batch of resolved requests and texts."""
        self.engine.run(batch)

    def to_result(self, state: RequestState) -> Recommendation | SwiftrecError:
        """The result of a request after `run`."""
        return to_result(self.stages, state)

    def recommend(self, requests: Sequence[Request]) -> list[Recommendation | SwiftrecError]:
        """Run requests now, as one batch, in this thread; for tools without a server."""
        states = [self._resolve_now(request) for request in requests]
        self.run([state for state in states if isinstance(state, RequestState)])
        return [self.to_result(state) if isinstance(state, RequestState) else state for state in states]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts now, in this thread: both halves, float32 [texts, encoder dimensions].

        Raises:
            ModelFailed: the encoder failed on a text.
        """
        states = self.resolve_texts(texts)
        self.run(states)
        for state in states:
            if state.error:
                raise state.error
        return np.array([state.vectors[0] for state in states], dtype=np.float32)

    def start(self) -> None:
        """Start the engine."""
        self.engine.start()

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop the engine."""
        self.engine.stop(timeout_s)

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
        actual = catalogue.dimensions, catalogue.sentences.shape[1]
        if actual != (manifest.dimensions, manifest.sentence_dimensions):
            raise BundleError(
                f"{self.bundle.folder}: item vectors have {actual[0]} + {actual[1]} dimensions, the manifest says "
                f"{manifest.dimensions} + {manifest.sentence_dimensions}: export it again"
            )


def load_scoring(bundle: Bundle, catalogue: Catalogue, parts_off: Collection[str] = ()) -> Scoring:
    """Load the parts of a bundle's score other than the ranker, without those that are switched off.

    Raises:
        BundleError: a table is missing or does not match the catalogue, or the weights are invalid.
    """
    items = len(catalogue.items)
    try:
        blend = Blend.read(bundle.manifest.blend).without(parts_off)
    except ValueError as error:
        raise BundleError(f"{bundle.folder / MANIFEST}: blend: {error}: export it again") from None
    if not bundle.manifest.has_tables:
        return Scoring(blend, Memory.empty(items), Words.empty(), items)
    return Scoring(blend, Memory.load(bundle.folder, items), Words.load(bundle.folder, items), items)
