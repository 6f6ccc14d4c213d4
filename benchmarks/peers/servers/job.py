"""The job that every peer does: text in, ids of ten items out.

Tokenise, encode, rank (the query is the user's whole sequence), take the largest dot products, as Recommend does with
`--parts ranker`, with which this server runs in the comparison: no peer has the other parts of a score.

Imports only what each peer's environment has: numpy, onnxruntime, tokenizers. onnxruntime is imported as the server
does it, since restricted to one core it would leave AMX off. Settings are environment variables, since some peers start
their workers themselves: `PEER_ENCODER`, `PEER_RANKER`, `PEER_FOLDER`,
`PEER_MAX_TOKENS`, `PEER_SPLIT` (rows in a sub-batch; 0: as documented, one batch padded to its longest), `PEER_BATCH`,
`PEER_WAIT_MS`, `PEER_PORT`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence, Sized
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from swiftrec.server.models.runtime import onnxruntime

TOP = 10
_QUERY = 2  # kind of the ranker's input
R = TypeVar("R")
SizedRow = TypeVar("SizedRow", bound=Sized)


def number(name: str) -> int:
    """The setting `PEER_<NAME>`."""
    return int(os.environ[f"PEER_{name}"])


def split_by_length(rows: Sequence[SizedRow], run: Callable[[list[SizedRow]], Iterable[R]], limit: int) -> list[R]:
    """Run rows sorted by length in sub-batches of at most `limit`; results in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    results: dict[int, R] = {}
    for start in range(0, len(order), limit):
        chosen = order[start : start + limit]
        results.update(zip(chosen, run([rows[n] for n in chosen]), strict=True))
    return [results[n] for n in range(len(rows))]


def read_ids(folder: Path) -> list[str]:
    """Ids of the bundle's items, in the order of their vectors."""
    with (folder / "items.jsonl").open(encoding="utf-8") as lines:
        return [str(json.loads(line)["id"]) for line in lines]


class PeerJob:
    """Tokenizer, encoder, ranker and item vectors; `split` as `PEER_SPLIT`."""

    def __init__(self, encoder: Path, ranker: Path, folder: Path, max_tokens: int, split: int) -> None:
        self._split = split
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._encoder, self._ranker = _session(encoder), _session(ranker)
        self._items: NDArray[np.float32] = np.load(folder / "vectors.npy", allow_pickle=False).T.copy()
        self._ids = read_ids(folder)
        self.answer(["warm up"])

    @classmethod
    def from_environment(cls) -> PeerJob:
        """The job that the environment variables describe."""
        encoder, ranker, folder = (Path(os.environ[f"PEER_{name}"]) for name in ("ENCODER", "RANKER", "FOLDER"))
        return cls(encoder, ranker, folder, number("MAX_TOKENS"), number("SPLIT"))

    def answer(self, texts: Sequence[str]) -> list[list[str]]:
        """Ten item ids for each text, best first."""
        rows: list[list[int]] = [self._tokenizer.encode(text).ids for text in texts]
        vectors = split_by_length(rows, self._encode, self._split) if self._split else list(self._encode(rows))
        return [self._best(scores) for scores in self._rank(np.stack(vectors)) @ self._items]

    def _encode(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Unit vectors [rows, dimensions], padded to the longest: the part of the output that the ranker reads."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = row
            mask[n, : len(row)] = 1
        vectors: NDArray[np.float32] = self._encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return vectors[:, : len(self._items)]

    def _rank(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """User vectors [rows, dimensions]."""
        kinds = np.full((len(vectors), 1), _QUERY, dtype=np.int64)
        feeds = {"vectors": vectors[:, None, :], "kinds": kinds, "mask": np.ones_like(kinds)}
        users: NDArray[np.float32] = self._ranker.run(None, feeds)[0]
        return users

    def _best(self, scores: NDArray[np.float32]) -> list[str]:
        top = np.argpartition(-scores, TOP)[:TOP] if len(scores) > TOP else np.arange(len(scores))
        return [self._ids[n] for n in top[np.argsort(-scores[top], kind="stable")]]


def _session(model: Path) -> Any:  # noqa: ANN401 (onnxruntime has no types)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one core, like every compared server
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
