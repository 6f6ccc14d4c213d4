"""The real server over an encoder that costs nothing, or a fixed time a batch: `python -m benchmarks.stub --help`."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.app import App
from server.config import ServerSettings, read_settings
from server.telemetry.logs import set_up_logs


class StubSession:
    """Answers each row with the same unit vector [dimensions], after `service_s` a batch."""

    def __init__(self, dimensions: int, service_s: float) -> None:
        self._dimensions, self._service_s = dimensions, service_s

    def run(self, feeds: dict[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Run nothing."""
        if self._service_s:
            time.sleep(self._service_s)
        vectors = np.zeros((len(next(iter(feeds.values()))), self._dimensions), dtype=np.float32)
        vectors[:, 0] = 1.0
        return vectors


def stub_app(settings: ServerSettings, service_s: float = 0.0, dimensions: int = 128) -> App:
    """A server whose models cost nothing."""

    def open_stub(_path: Path, _device: str, _threads: int) -> StubSession:
        return StubSession(dimensions, service_s)

    return App(settings, open_session=open_stub)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service-ms", type=float, default=0.0)
    flags, rest = parser.parse_known_args()
    settings = read_settings(ServerSettings, rest)
    set_up_logs(settings.log_level)
    app, stop = stub_app(settings, flags.service_ms / 1e3), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    app.start()
    sys.stdout.write(f"ready on {settings.host}:{app.port}, metrics on {settings.host}:{app.metrics_port}\n")
    sys.stdout.flush()
    stop.wait()
    app.stop()


if __name__ == "__main__":
    main()
