"""The first step of requests: texts to vectors, for all texts of a list together.

Steps are driven by callbacks: the thread that finishes a list's last encoding goes on with its ranking.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.batching.batcher import Batcher
from server.catalogue.blend import Scoring
from server.catalogue.catalogue import Catalogue
from server.catalogue.names import Names
from server.errors import SwiftrecError
from server.pipeline.call import Call
from server.pipeline.encodings import Encodings, Wish
from server.pipeline.wanted import Found, Wanted
from server.telemetry.statistics import ModelTime

Vector = NDArray[np.float32]
NO_VECTOR: Vector = np.empty(0, dtype=np.float32)


class Texts(Protocol):
    """What turns texts into token ids: a tokenizer."""

    def encode(self, texts: Sequence[str], /) -> list[list[int]]:
        """Token ids of each text."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the steps of one bundle work with."""

    tokenizer: Texts
    encodings: Encodings
    ranker: Batcher[Wanted, Found]
    catalogue: Catalogue
    scoring: Scoring
    names: Names
    max_history: int
    exclude_history: bool = True  # of requests that do not say
    clock: Callable[[], float] = time.monotonic


class Encoding:
    """The texts of several entries on their way to vectors.

    Args:
        parts: what to work with.
        texts: of each entry, maybe none.
        priorities: of each entry, 1 (most urgent) to 9.
        call: whose work this is.
        then: called once, when each entry has all its vectors or an error; maybe by `start`.

    Attributes:
        results: of each entry a vector for each text, or the first error, after which its other texts are taken back.
        times: of each entry, how long its texts waited for batches and these ran.
        tokenise_s: what tokenising took.
        lookup_s: what looking up the texts' vectors in the cache and queueing the others took.
    """

    def __init__(
        self,
        parts: Parts,
        texts: Sequence[Sequence[str]],
        priorities: Sequence[int],
        call: Call,
        then: Callable[[], None],
    ) -> None:
        self._parts, self._texts, self._priorities, self._call, self._then = parts, texts, priorities, call, then
        self.results: list[list[Vector] | SwiftrecError] = [[NO_VECTOR] * len(some) for some in texts]
        self.times = [ModelTime() for _ in texts]
        self.tokenise_s = self.lookup_s = 0.0
        self._submitted = 0.0
        self._lock = threading.Lock()
        self._missing = [len(some) for some in texts]
        self._entries = sum(map(bool, texts))  # that miss something
        self._wishes: list[list[Wish]] = []

    def start(self) -> None:
        """Tokenise and queue."""
        if not self._entries:
            self._then()
            return
        started = self._parts.clock()
        rows = iter(self._parts.tokenizer.encode([*chain.from_iterable(self._texts)]))
        self.tokenise_s = self._parts.clock() - started
        for entry, (some, priority) in enumerate(zip(self._texts, self._priorities, strict=True)):
            self._wishes.append(
                [Wish(next(rows), priority, partial(self._arrived, entry, place)) for place in range(len(some))]
            )
        self._submitted = self._parts.clock()
        self._parts.encodings.submit([*chain.from_iterable(self._wishes)], self._call.deadline)
        self.lookup_s = self._parts.clock() - self._submitted
        self._call.on_cancel(self.take_back)

    def take_back(self) -> None:
        """Whatever has not started never runs."""
        self._parts.encodings.take_back(chain.from_iterable(self._wishes))

    def _arrived(self, entry: int, place: int, result: Vector | SwiftrecError) -> None:
        error = result if isinstance(result, SwiftrecError) else None
        with self._lock:
            vectors = self.results[entry]
            if isinstance(vectors, SwiftrecError):
                return
            wishes = self._wishes[entry]
            if isinstance(result, SwiftrecError):
                self.results[entry] = result
            else:
                vectors[place] = result
                if run := wishes[place].run:
                    self.times[entry].keep_longest(self._submitted, run.started, run.ended)
                self._missing[entry] -= 1
                if self._missing[entry]:
                    return
            self._entries -= 1
            is_last = not self._entries
            if is_last:
                self._wishes = []  # which hold this: what is over leaves no work to the garbage collector
        if error:
            self._parts.encodings.take_back(wishes)
        if is_last:
            self._then()
