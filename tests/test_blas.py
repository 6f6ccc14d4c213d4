"""Commands that run models in a separate process give BLAS one thread, as the server does."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import swiftrec.benchmarks.__main__ as benchmarks
import swiftrec.server.__main__ as server
from swiftrec.benchmarks.floor import FloorSettings


def blas_threads(*_settings: object) -> int:
    """The most that a library may take."""
    return max(int(library["num_threads"]) for library in threadpool_info() if library["user_api"] == "blas")


def test_measuring_tools_have_one_thread_for_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmarks._TOOLS, "floor", (FloorSettings, blas_threads))
    with threadpool_limits(2, "blas"):
        assert benchmarks.main(["floor"]) == 1
        assert blas_threads() == 2


def test_tuning_has_one_thread_for_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(server, "tune", lambda _settings: seen.append(blas_threads()))
    monkeypatch.setattr(server, "set_up_logs", lambda _level: None)
    with threadpool_limits(2, "blas"):
        assert server.main(["tune", "--bundle", "."]) == 0
    assert seen == [1]
