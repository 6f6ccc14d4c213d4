"""`python -m server --bundle DIR`: serve until SIGTERM or Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from server.app import App
from server.config import ServerSettings, read_settings
from server.errors import SwiftrecError
from server.telemetry.logs import set_up_logs


def main() -> int:
    """Exit code 0 after a clean stop, 2 with one sentence on stderr if it cannot start."""
    started = time.monotonic()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = read_settings(ServerSettings)
        set_up_logs(settings.log_level)
        app = App(settings)
        app.start()
    except SwiftrecError as error:
        sys.stderr.write(f"server: {error}\n")
        sys.stderr.flush()
        os._exit(2)  # a half-started gRPC server's threads would hold the process
    facts = app.engine.bundle.manifest
    sys.stdout.write(
        f"ready in {time.monotonic() - started:.1f} s: {facts.name} version {facts.version} on "
        f"{settings.host}:{app.port}, metrics on {settings.metrics_host}:{app.metrics_port}\n"
        f'try: make ask PORT={app.port} Q="animated films for children" HISTORY="Toy Story (1995)|50"\n'
    )
    sys.stdout.flush()
    stop.wait()
    app.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
