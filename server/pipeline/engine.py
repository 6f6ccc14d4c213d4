"""The engine of one bundle: sessions, batchers, catalogue and pipeline, put together in data-flow order."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from server.batching.batcher import Batcher
from server.batching.policy import Limits
from server.catalogue.catalogue import Catalogue
from server.models.bundle import Bundle
from server.models.encoder import EncoderModel, Vector
from server.models.ranker import Kind, RankerModel, UserSequence
from server.models.session import open_session
from server.models.tokenizer import Tokenizer
from server.pipeline.recommender import Recommender

Observe = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where and how the models run."""

    device: str = "cpu"
    variant: str | None = None
    sessions: int = 1
    limits: Limits = field(default_factory=Limits)


class Engine:
    """Loads on construction; `start` warms up and runs the batchers; free of gRPC and of any event loop.

    Args:
        bundle: a verified bundle.
        options: where and how the models run.
        observe: called with (model, jobs, padded tokens) of each batch.
        on_death: called if a batching thread dies.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: EngineOptions,
        observe: Observe = lambda _model, _jobs, _tokens: None,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        facts = bundle.manifest
        self.bundle = bundle
        self.tokenizer = Tokenizer.load(bundle.folder / "tokenizer.json", facts.max_tokens)
        self.catalogue = Catalogue.load(bundle.folder)
        encoder = open_session(bundle.encoder(options.device, options.variant), options.device)
        ranker = open_session(bundle.folder / "ranker.onnx", options.device)
        self._encoder = EncoderModel(encoder)
        self._ranker = RankerModel(ranker, facts.dimensions)
        self._encode: Batcher[list[int], Vector] = Batcher(
            "encode",
            self._encoder,
            options.limits,
            sessions=options.sessions,
            observe=lambda jobs, tokens: observe("encoder", jobs, tokens),
            on_death=on_death,
        )
        self._rank: Batcher[UserSequence, Vector] = Batcher(
            "rank",
            self._ranker,
            options.limits,
            sessions=options.sessions,
            observe=lambda jobs, tokens: observe("ranker", jobs, tokens),
            on_death=on_death,
        )
        self.recommender = Recommender(
            self.tokenizer, self._encode, self._rank, self.catalogue, facts.max_history, time.monotonic
        )

    def start(self) -> None:
        """Run each model once at several sizes, then take work."""
        row = self.tokenizer.encode(["warm up"])[0]
        nothing = np.zeros(self.bundle.manifest.dimensions, dtype=np.float32)
        for size in (1, 4, 16):
            self._encoder.run([row] * size)
            self._ranker.run([UserSequence([nothing], [Kind.ITEM])] * size)
        self._encode.start()
        self._rank.start()

    def stop(self) -> None:
        """Finish what waits and stop; texts first, since ranking waits for them."""
        self._encode.stop()
        self._rank.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
