"""`python -m server --bundle DIR`: serve until SIGTERM or Ctrl-C. `python -m server tune --bundle DIR`: see --help."""

from __future__ import annotations

import os
import sys
import time

from threadpoolctl import threadpool_limits

from server.addresses import join_address
from server.app import App
from server.catalogue.catalogue import Filter
from server.config import ServerSettings, read_settings
from server.errors import SwiftrecError
from server.flags import with_flags
from server.hint import SAMPLED_ITEMS, hint
from server.probe import end_with_parent, try_bundle
from server.signals import stop_on_signals
from server.telemetry.logs import set_up_logs
from server.tuning.tune import TuneSettings, tune
from server.tuning.tuned import engine_options


def main(argv: list[str]) -> int:
    """Exit code 0 after a clean end, 2 with one sentence on stderr if it cannot start."""
    try:
        with threadpool_limits(1, "blas"):  # its threads wait spinning for each other while the models hold the cores
            _run(with_flags(argv, os.environ))
    except SwiftrecError as error:
        sys.stderr.write(f"server: {error}\n")
        sys.stderr.flush()
        os._exit(2)  # a half-started gRPC server's threads would hold the process
    return 0


def _run(argv: list[str]) -> None:
    match argv:
        case ["tune", *flags]:
            set_up_logs("warning")
            tune(read_settings(TuneSettings, flags, [ServerSettings]))
        case ["probe", *flags]:  # what the server runs in a process of its own before it loads a bundle
            set_up_logs("error")
            end_with_parent()
            settings = read_settings(ServerSettings, flags, [TuneSettings])
            for folder in settings.bundle:
                try_bundle(folder, engine_options(settings))
        case _:
            _serve(read_settings(ServerSettings, argv, [TuneSettings]))


def _serve(settings: ServerSettings) -> None:
    started = time.monotonic()
    app = App(settings)
    stop = stop_on_signals(app)
    set_up_logs(settings.log_level)
    app.start()
    with app.registry.use() as engine:
        facts, catalogue = engine.bundle.manifest, engine.catalogue
        popular = catalogue.popular(catalogue.mask(Filter(), ()), SAMPLED_ITEMS)
    sys.stdout.write(
        f"ready in {time.monotonic() - started:.1f} s: {facts.name} version {facts.version} on "
        f"{join_address(settings.host, app.port)}, "
        f"metrics on {join_address(settings.metrics_host, app.metrics_port)}\n"
        f"try: {hint(settings, app.port, [item for item, _ in popular])}\n"
    )
    sys.stdout.flush()
    stop.wait()
    app.stop()
    sys.stdout.flush()
    os._exit(0)  # a bundle that is being loaded by a thread would hold the process beyond the grace


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
