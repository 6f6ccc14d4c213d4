"""The workload as one server needs it, and its responses, checked against the ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from swiftrec.benchmarks.client import LogRow, ResponseLog
from swiftrec.benchmarks.peers.ground_truth import GroundTruth
from swiftrec.benchmarks.peers.targets import Target
from swiftrec.benchmarks.peers.transports import UNKNOWN
from swiftrec.benchmarks.statistics import OK, RequestRows
from swiftrec.benchmarks.workload import Requests

_MAX_MESSAGE_CHARACTERS = 200  # of a server's error


class TextRanking(NamedTuple):
    """Item ids for text number `text`; empty if the server responded with an error."""

    text: int
    ids: list[str]


@dataclass(slots=True)
class PeerSession:
    """Requests that a target understands, and counts of its rankings, one for each text.

    Attributes:
        target: server and mode.
        truth: the right rankings.
        texts: queries of the requests.
        tokens: of each text, as the bundle's tokenizer counts them.
        requests: `target.texts` texts each.
        errors: texts without a ranking.
        wrong: rankings that differ from the truth.
        rankings: texts with a ranking.
        trouble: the first error or wrong ranking, in words.
    """

    target: Target
    truth: GroundTruth
    texts: Sequence[str]
    tokens: Sequence[int]
    requests: Requests = field(init=False)
    errors: int = 0
    wrong: int = 0
    rankings: int = 0
    trouble: str = ""

    def __post_init__(self) -> None:
        size = self.target.texts
        starts = range(0, len(self.texts) - size + 1, size)
        payloads = [self.target.pack(self.texts[start : start + size]) for start in starts]
        tokens = [sum(self.tokens[start : start + size]) for start in starts]
        entries = np.full(len(payloads), size, np.int32)
        self.requests = Requests("encode", payloads, np.array(tokens, np.int32), entries)

    def log(self, number: int | None = None) -> ResponseLog:
        """A log of the first `number` requests, or of all; it keeps every response."""
        return ResponseLog(self.requests.first(number), max_kept=inf)

    def check(self, log: ResponseLog) -> tuple[list[TextRanking], RequestRows]:
        """Check and count the rankings in a log.

        Returns:
            A ranking for each text; and the rows, in which only texts with a ranking count as entries, and a request
            without any has failed.
        """
        by_row = [self._rankings(row) for row in log.rows]
        rankings = [ranking for row in by_row for ranking in row]
        succeeded = [ranking for ranking in rankings if ranking.ids]
        wrong = [ranking for ranking in succeeded if not self.truth.is_right(ranking.text, ranking.ids)]
        self.rankings += len(succeeded)
        self.errors += len(rankings) - len(succeeded)
        self.wrong += len(wrong)
        self._note_trouble([row for row in log.rows if row.code != OK], wrong)
        entries = np.array([sum(bool(ranking.ids) for ranking in row) for row in by_row], np.int32)
        rows = log.freeze()
        code = np.where((rows.code == OK) & (entries == 0), UNKNOWN, rows.code).astype(np.int32)
        return rankings, replace(rows, entries=entries, code=code)

    def mix(self, rankings: Sequence[TextRanking]) -> float:
        """Mean tokens of the answered texts over those of all: below 1 more short texts were answered."""
        lengths = np.array(self.tokens, dtype=np.float64)
        return float(lengths[[ranking.text for ranking in rankings]].mean() / lengths.mean())

    def reset(self) -> None:
        """Forget all counts."""
        self.errors = self.wrong = self.rankings = 0
        self.trouble = ""

    def _rankings(self, row: LogRow) -> list[TextRanking]:
        size = self.target.texts
        ids = self._unpack(row.response) if row.code == OK else []
        ids += [[]] * (size - len(ids))
        return [TextRanking(row.request * size + n, ids[n]) for n in range(size)]

    def _note_trouble(self, failed: Sequence[LogRow], wrong: Sequence[TextRanking]) -> None:
        if not self.trouble and wrong:
            self.trouble = f"text {wrong[0].text} had the wrong ranking {' '.join(wrong[0].ids)}"
        if not self.trouble and failed:
            message = failed[0].response.decode(errors="replace").strip()[:_MAX_MESSAGE_CHARACTERS]
            self.trouble = f"a request failed with status {failed[0].code}{f': {message}' if message else ''}"

    def _unpack(self, response: bytes) -> list[list[str]]:
        try:
            return self.target.unpack(response)
        except (ValueError, LookupError, TypeError, DecodeError):
            return []
