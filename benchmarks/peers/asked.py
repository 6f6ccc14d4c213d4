"""The workload as one server wants it, and its answers, checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError

from swiftrec.benchmarks.client import Send
from swiftrec.benchmarks.peers.reference import Scores
from swiftrec.benchmarks.peers.targets import Target
from swiftrec.benchmarks.summary import OK

_MOST_WORDS = 200  # characters of what a server says of a failure


@dataclass(frozen=True, slots=True)
class Answer:
    """To text number `text`; came at `moment`. No ids mean that the server answered with an error."""

    moment: float
    text: int
    ids: list[str]


@dataclass(slots=True)
class Asked:
    """Requests that a target understands, and counters of what came of them, one for each text.

    `tokens` are those of each text, as the bundle's tokenizer counts them.
    """

    target: Target
    scores: Scores
    texts: Sequence[str]
    tokens: Sequence[int]
    requests: list[bytes] = field(init=False)
    errors: int = 0
    wrong: int = 0
    answers: int = 0
    trouble: str = ""
    _place: dict[bytes, int] = field(init=False)
    _replies: list[tuple[float, bytes, int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        size = self.target.texts
        starts = range(0, len(self.texts) - size + 1, size)
        self.requests = [self.target.pack(self.texts[start : start + size]) for start in starts]
        self._place = dict(zip(self.requests, starts, strict=True))

    def through(self, ask: Send) -> Send:
        """For the loops of `benchmarks.client`: sends, and keeps the replies."""

        def send(request: bytes, answered: Callable[[int, bytes], None]) -> None:
            def note(code: int, reply: bytes) -> None:
                self._replies.append((time.monotonic(), request, code, reply))
                answered(code, b"")  # the loops need not keep it, too

            ask(request, note)

        return send

    def take(self) -> list[Answer]:
        """The answers since the last time, checked and counted."""
        replies, self._replies = self._replies, []
        found = []
        for moment, request, code, reply in replies:
            place = self._place[request]
            ids = self._unpack(reply) if code == OK else []
            ids += [[]] * (self.target.texts - len(ids))
            found += [Answer(moment, place + n, ids[n]) for n in range(self.target.texts)]
        good = [answer for answer in found if answer.ids]
        self.answers += len(good)
        self.errors += len(found) - len(good)
        wrong = [answer for answer in good if not self.scores.is_right(answer.text, answer.ids)]
        self.wrong += len(wrong)
        self._note([(code, said) for _, _, code, said in replies if code != OK], wrong)
        return found

    def mix(self, answers: Sequence[Answer]) -> float:
        """Mean tokens of the answered texts over those of all: below 1 the short ones were answered more often."""
        lengths = np.array(self.tokens, dtype=np.float64)
        return float(lengths[[answer.text for answer in answers]].mean() / lengths.mean())

    def _note(self, failed: Sequence[tuple[int, bytes]], wrong: Sequence[Answer]) -> None:
        """Keep the first trouble in words: what a reader needs to look for its cause."""
        if not self.trouble and wrong:
            self.trouble = f"text {wrong[0].text} was answered with {' '.join(wrong[0].ids)}"
        if not self.trouble and failed:
            code, said = failed[0]
            words = said.decode(errors="replace").strip()[:_MOST_WORDS]
            self.trouble = f"a request failed with status {code}{f': {words}' if words else ''}"

    def _unpack(self, reply: bytes) -> list[list[str]]:
        try:
            return self.target.unpack(reply)
        except (ValueError, LookupError, TypeError, DecodeError):
            return []
