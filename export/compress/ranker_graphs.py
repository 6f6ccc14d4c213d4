"""The ranker as an ONNX graph: compared with PyTorch, and timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from swiftrec.export.compress.equivalence import difference
from swiftrec.export.models.ranker import TorchSession
from swiftrec.export.schema.models import RankerRecord
from swiftrec.server.models.networks import EventKind, RankerModel, UserSequence
from swiftrec.server.models.session import open_session

_RECORD = "ranker.json"
_SEQUENCES, _BATCH, _ROUNDS, _TIMED = 48, 16, 5, 64


def save_ranker(record: RankerRecord, folder: Path) -> None:
    """Write `ranker.json`."""
    (folder / _RECORD).write_text(record.model_dump_json(indent=1))


def read_ranker(folder: Path) -> RankerRecord:
    """Read what `save_ranker` wrote."""
    return RankerRecord.model_validate_json((folder / _RECORD).read_bytes())


def random_users(number: int, dimensions: int, longest: int, *, shortest: int = 1) -> list[UserSequence]:
    """Random sequences of every length, some with a query at the end; the same at each call."""
    rng = np.random.default_rng(0)
    users = []
    for length in np.linspace(shortest, longest, number).round().astype(int).tolist():
        vectors = rng.normal(size=(length, dimensions)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        kinds = [EventKind(int(kind)) for kind in rng.integers(0, 2, length - 1)]
        users.append(UserSequence(list(vectors), [*kinds, EventKind.QUERY if rng.random() < 0.5 else EventKind.ITEM]))
    return users


def measure_ranker_parity(ranker: nn.Module, graph: Path, dimensions: int, longest: int) -> float:
    """Largest difference of a user vector's entries, PyTorch alone against the graph in batches of all lengths.

    As a share of the largest entry: user vectors have no fixed length.
    """
    users = random_users(_SEQUENCES, dimensions, longest)
    module, served = RankerModel(TorchSession(ranker), dimensions), RankerModel(open_session(graph), dimensions)
    exact = np.array([module.run([user])[0] for user in users])
    parts = [slice(n, None, len(users) // _BATCH) for n in range(len(users) // _BATCH)]
    largest = max(difference(np.array(served.run(users[part])), exact[part]) for part in parts)
    return largest / float(np.abs(exact).max())


def time_ranker(graph: Path, dimensions: int, longest: int) -> tuple[float, float]:
    """CPU milliseconds of one user with a full history, and users/s in batches: the medians of some rounds."""
    users = random_users(_TIMED, dimensions, longest, shortest=longest)
    model = RankerModel(open_session(graph), dimensions)
    _sweep(model, users, _BATCH)  # warms up
    rounds = [(_sweep(model, users, 1), _sweep(model, users, _BATCH)) for _ in range(_ROUNDS)]
    single, batched = np.median(rounds, axis=0).tolist()
    return 1e3 * single / len(users), len(users) / batched


def _sweep(model: RankerModel, users: Sequence[UserSequence], size: int) -> float:
    started = time.process_time()
    for n in range(0, len(users), size):
        model.run(users[n : n + size])
    return time.process_time() - started
