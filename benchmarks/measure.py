"""Runs the load generator on its own cores against a server and gives its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from swiftrec.benchmarks.machine import pinned
from swiftrec.benchmarks.process import Served, load_cores
from swiftrec.benchmarks.summary import OK, RESOURCE_EXHAUSTED, UNAVAILABLE

NO_LIMIT = 9.0  # of the client's share of its cores: for a bare server, which the client is no faster than
_MEASURED = {0, 1}  # 1: figures that say of the client, or of a server that has gone; what of them counts is seen below
_ANSWERED = {str(OK)}
# What a server says that works; gRPC itself refuses the 1,025th call of a connection, as UNAVAILABLE.
_REFUSED = {str(OK), str(RESOURCE_EXHAUSTED), str(UNAVAILABLE)}


def load(
    served: Served,
    *,
    may_refuse: bool = False,
    may_limit: bool = False,
    **flags: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Run the load generator in a process of its own.

    Args:
        served: the server; its CPU time is measured.
        may_refuse: RESOURCE_EXHAUSTED is an answer, and UNAVAILABLE while the server's process lives.
        may_limit: the caller looks at "bottleneck".
        flags: fields of `LoadSettings`.

    Returns:
        `benchmarks.window.figures`; "bottleneck" says whether the client held it back.

    Raises:
        RuntimeError: the generator failed, requests did, the server ended, or the client was the bottleneck.
    """
    command = _command("load", target=served.address, watch=served.pid, **flags)
    with pinned(load_cores()):
        ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    served.check()
    if not ended.stdout.strip() or ended.returncode not in _MEASURED:
        raise RuntimeError(f"the load generator failed: {ended.stderr.strip().removeprefix('benchmarks load: ')}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    _check(served, found, may_refuse=may_refuse)
    if found["bottleneck"] and not may_limit:
        raise RuntimeError(found["bottleneck"])
    return found


def floor(**flags: Any) -> dict[str, Any]:  # noqa: ANN401
    """`benchmarks.floor.Floor` of a process of its own.

    Args:
        flags: fields of `FloorSettings`.

    Raises:
        RuntimeError: it failed.
    """
    ended = subprocess.run(_command("floor", **flags), capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise RuntimeError(f"the floor failed: {ended.stderr.strip().removeprefix('benchmarks floor: ')}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _command(name: str, **flags: Any) -> list[str]:  # noqa: ANN401
    """A tool of this package with flags: True is the flag alone, a list the flag again and again, None no flag."""
    command = [sys.executable, "-m", "swiftrec.benchmarks", name]
    for field, value in flags.items():
        flag = f"--{field.replace('_', '-')}"
        if isinstance(value, bool):
            command += [flag] if value else []
        elif value is not None:
            command += [f"{flag}={one}" for one in (value if isinstance(value, list | tuple) else [value])]
    return command


def _check(served: Served, found: dict[str, Any], *, may_refuse: bool) -> None:
    allowed = _REFUSED if may_refuse else _ANSWERED
    is_alive = may_refuse and served.pid is not None  # of a process that is not ours nobody knows
    if (gone := found["codes"].get(str(UNAVAILABLE))) and not is_alive:
        raise RuntimeError(f"the server at {served.address} went away: {gone} requests met nobody: look at its log")
    others = {code: number for code, number in found["codes"].items() if code not in allowed}
    if others:
        names = ", ".join(f"{number} with status {code}" for code, number in others.items())
        every = sum(found["codes"].values())
        raise RuntimeError(f"requests failed: {names} of {every}: look at the log of the server at {served.address}")
    if found["wrong"]:
        raise RuntimeError(
            f"{found['wrong']} replies were no answers: look at the log of the server at {served.address}"
        )
