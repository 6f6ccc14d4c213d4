"""`python -m benchmarks padding`: what padding adds to a batch, with denormal floats as zero and without.

All batches of a size are padded to the same length, so that the model does the same work; what differs is how much of
it is masked. ONNX Runtime by itself leaves denormals where a position is masked (server/models/denormals.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from benchmarks import report
from benchmarks.machine import pinned
from benchmarks.process import SERVER_CORE
from server.models.bundle import load_bundle
from server.models.encoder import EncoderModel
from server.models.runtime import onnxruntime
from server.models.session import Session, open_session

_SIZES = ((2, 32), (4, 32), (2, 64), (4, 64), (2, 128), (4, 128))  # rows and tokens
_TOKEN = 7  # the id of every token


class PaddingSettings(BaseSettings):
    """What padding adds to a batch, in the server's session and in one of ONNX Runtime's own making."""

    model_config = SettingsConfigDict(cli_prog_name="python -m benchmarks padding", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder, as the server's --variant; one with attention")
    repeats: int = Field(30, ge=3, description="runs of each batch, in turn")


class PlainSession:
    """ONNX Runtime as it comes, with one thread."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run the model."""
        result: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return result


def run(settings: PaddingSettings) -> int:
    """Write the table."""
    bundle = load_bundle(settings.bundle)
    path = bundle.encoder("cpu", settings.variant)
    sessions: dict[str, Session] = {"served": open_session(path), "plain": PlainSession(path)}
    head, cells, found = ["rows x tokens"], [], []
    head += [f"{name}: {what}" for name in sessions for what in ("us a row", "one padded", "half padded")]
    with pinned(SERVER_CORE):
        for rows, length in _SIZES:
            if length > bundle.manifest.max_tokens:
                continue
            line = [f"{rows} x {length}"]
            for name, (full, one, half) in measure(sessions, rows, length, settings.repeats).items():
                line += [f"{full:.0f}", f"{one / full:.3f}", f"{half / full:.3f}"]
                found.append({"session": name, "rows": rows, "tokens": length, "us": full, "one": one, "half": half})
            cells.append(line)
    report.write(report.table(head, cells), {"us_a_row": found})
    return 0


def measure(
    sessions: Mapping[str, Session], rows: int, length: int, repeats: int
) -> dict[str, tuple[float, float, float]]:
    """Microseconds of CPU a row: of a full batch, with one position masked in all rows but one, and with half of them.

    All are padded to `length`; the median of `repeats` runs in turn.
    """
    batches = [[[_TOKEN] * length] + [[_TOKEN] * held] * (rows - 1) for held in (length, length - 1, length // 2)]
    spent: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in sessions}
    for _ in range(repeats):
        for name, session in sessions.items():
            model = EncoderModel(session)
            for batch, seconds in zip(batches, spent[name], strict=True):
                began = time.thread_time()
                model.run(batch)
                seconds.append(time.thread_time() - began)
    us = {name: [1e6 * float(np.median(seconds)) / rows for seconds in lists] for name, lists in spent.items()}
    return {name: (full, one, half) for name, (full, one, half) in us.items()}
