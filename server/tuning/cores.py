"""The number of cores that this process may use: its CPU affinity, or its CPU quota if that is less."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_V1_MOUNTS = ("cpu", "cpu,cpuacct")


def usable_cores(mount: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Cores by affinity (`taskset`, cpusets) or by quota (cgroup v1 and v2, rounded up), whichever is less; at least 1.

    Args:
        mount: where the cgroup file systems are mounted.
        own: the file that names this process's cgroups, see cgroups(7).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(mount, own)
    return allowed if quota is None else max(1, min(allowed, -(-quota[0] // quota[1])))


def _quota(mount: Path, own: Path) -> tuple[int, int] | None:
    """The smallest (quota, period) in microseconds of this process's cgroup and those above it; None: no limit."""
    folders = [limit for folder in _folders(mount, own) if (limit := _limit(folder))]
    return min(folders, key=lambda limit: limit[0] / limit[1], default=None)


def _folders(mount: Path, own: Path) -> list[Path]:
    """The folders of this process's CPU cgroup and of its ancestors; in a container often only the root is visible."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = Path(path.strip("/")).parts
        for root in [mount / name for name in _V1_MOUNTS] if controllers else [mount]:
            folders += [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]
    return folders


def _limit(folder: Path) -> tuple[int, int] | None:
    """The (quota, period) of one cgroup; None if it has no limit or does not exist."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        limit = int(quota), int(period)
    except (OSError, ValueError):  # "max" means no limit
        return None
    return limit if min(limit) > 0 else None
