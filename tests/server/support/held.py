"""Hold the worker, so that calls wait."""

from __future__ import annotations

import threading

import pytest

from swiftrec.server.worker.worker import Worker
from tests.until import LONG


def hold_steps(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No worker runs a step until the returned event is set."""
    is_open, step = threading.Event(), Worker.step

    def held_step(worker: Worker) -> None:
        assert is_open.wait(LONG)
        step(worker)

    monkeypatch.setattr(Worker, "step", held_step)
    return is_open
