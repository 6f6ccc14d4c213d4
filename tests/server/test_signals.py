"""A signal that the kernel gives to another thread than the main one is obeyed all the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from swiftrec.server import signals
from swiftrec.server.app import App
from tests.conftest import ROOT

_PROGRAM = """
import signal, sys, threading
from swiftrec.server.signals import on_signals

stop = threading.Event()
if sys.argv[1] == "ours":
    on_signals(stop.set)
else:
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
print("waits", flush=True)
stop.wait()
"""


@pytest.mark.parametrize("way", ["ours", "plain"])
def test_signal_to_another_thread_ends_the_wait_of_the_main_one(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", _PROGRAM, way], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            if way == "ours":
                assert process.wait(30) == 0
            else:  # what the thread is for: a handler alone is not run
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(2)
        finally:
            process.kill()


@pytest.mark.parametrize(("serves", "stops"), [(False, 0), (True, 1)])
def test_signal_while_it_starts_stops_what_serves_and_leaves(
    monkeypatch: pytest.MonkeyPatch, serves: bool, stops: int
) -> None:
    told: list[Callable[[], None]] = []
    left = threading.Event()
    done: list[str] = []
    monkeypatch.setattr("swiftrec.server.signals.on_signals", told.append)

    def leave(code: int) -> None:
        done.append(f"exit {code}")
        left.set()

    monkeypatch.setattr("swiftrec.server.signals.os._exit", leave)
    app = SimpleNamespace(
        has_started=False,
        registry=SimpleNamespace(ready=lambda: ["engine"] if serves else []),
        stop=lambda: done.append("stop"),
        hurry=lambda: done.append("hurry"),
    )
    stop = signals.stop_on_signals(cast(App, app))
    told[0]()
    assert left.wait(30)
    assert done == ["stop"] * stops + ["exit 0"]
    assert stop.is_set()
    told[0]()
    assert done[-1] == "hurry"
