"""Training keeps its CPU time beside busy processes; cores are counted by affinity and by the container's quota."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import swiftrec.benchmarks.__main__ as benchmarks
import swiftrec.server.__main__ as server
from swiftrec.benchmarks.floor import FloorSettings
from swiftrec.benchmarks.microbenchmarks.contention import WAITING, WORK, ContentionSettings, busy_loops, spend
from swiftrec.export.threads import choose_threads, prepare_threads
from swiftrec.server.tuning.cores import usable_cores

_FACTOR = 1.4  # the default way of waiting takes 2 to 7 times the CPU time


def test_waiting_for_a_preempted_thread_uses_no_cpu_time(tmp_path: Path) -> None:
    """CPU seconds, which a busy machine hardly changes; OpenMP's default way of waiting is the control."""
    settings = ContentionSettings(data=tmp_path, steps=4)
    alone = spend(settings, WAITING[0], WORK[1]).cpu
    with busy_loops(len(os.sched_getaffinity(0))):
        chosen, control = (spend(settings, way, WORK[1]).cpu for way in WAITING)
    assert chosen < _FACTOR * alone
    if usable_cores() > 1:  # a single thread never waits for another
        assert control > _FACTOR * chosen


def test_variables_set_by_the_user_are_kept() -> None:
    given = {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "ACTIVE"}
    environment = dict(given)
    choose_threads(environment)
    assert environment == given


def test_threads_cannot_be_configured_after_torch_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    with pytest.raises(RuntimeError, match="before torch"):
        prepare_threads()


@pytest.mark.parametrize(
    ("files", "groups", "cores"),
    [
        ({"cpu.max": "max 100000"}, "0::/\n", 64),
        ({"cpu.max": "150000 100000"}, "0::/\n", 2),
        ({"cpu.max": "10000 100000"}, "0::/\n", 1),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b\n", 4),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "300000 100000"}, "0::/a/b\n", 3),
        ({"cpu.max": "300000 100000"}, "0::/only/visible/on/the/host\n", 3),
        ({"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/\n2:pids:/\n", 3),
        (
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "-1", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
            "3:cpu,cpuacct:/x\n",
            64,
        ),
        ({"cpu.max": "garbage"}, "0::/\n", 64),
        ({}, "", 64),
    ],
)
def test_quota_of_a_container_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], groups: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(groups)
    assert usable_cores(tmp_path, tmp_path / "own") == cores


def test_affinity_limits_the_cores_when_below_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    (tmp_path / "cpu.max").write_text("800000 100000")
    (tmp_path / "own").write_text("0::/\n")
    assert usable_cores(tmp_path, tmp_path / "own") == 1


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
