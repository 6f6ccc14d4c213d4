"""The commands `swiftrec serve`, `swiftrec tune` and `swiftrec probe`."""

from __future__ import annotations

import logging
import os
import sys
import time

from threadpoolctl import threadpool_limits

from swiftrec.server.addresses import join_address
from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.domain import Filter
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.flags import with_flags
from swiftrec.server.hint import SAMPLED_ITEMS, hint, program_as_typed
from swiftrec.server.output import make_nonblocking, write_text
from swiftrec.server.probe import ProbeSettings, end_with_parent, try_bundle
from swiftrec.server.settings_reader import read_settings
from swiftrec.server.signals import stop_on_signals
from swiftrec.server.telemetry.logs import set_up_logs
from swiftrec.server.tuning.tune import TuneSettings, tune
from swiftrec.server.tuning.tuned import engine_options

EXIT_FAULT = 70  # the process has stopped because of a fault and should be restarted


def main(argv: list[str]) -> int:
    """Serve, or run the command that `argv` begins with: "tune" or "probe".

    Returns:
        Exit code 0 after a clean end; 2 with one sentence on stderr if it cannot start.
    """
    command = argv[0] if argv and argv[0] in {"tune", "probe"} else "serve"
    try:
        with threadpool_limits(1, "blas"):  # BLAS threads would spin while the models use the cores
            _run(with_flags(argv, os.environ))
    except SwiftrecError as error:
        sentence = " ".join(
            line.strip() for line in str(error).splitlines()
        )  # messages of libraries may have several lines
        logging.shutdown()
        write_text(sys.stderr, f"swiftrec {command}: {sentence}\n")
        os._exit(2)  # the threads of a partly started gRPC server would keep the process alive
    return 0


def _run(argv: list[str]) -> None:
    match argv:
        case ["tune", *flags]:
            set_up_logs("warning")
            tune(read_settings(TuneSettings, flags, [ServerSettings]))
        case ["probe", *flags]:  # which a running server runs in a child process before it loads a bundle
            set_up_logs("error")
            end_with_parent()
            probed = read_settings(ProbeSettings, flags, [TuneSettings])
            for folder in probed.bundle:
                try_bundle(folder, engine_options(probed))
        case _:
            _serve(read_settings(ServerSettings, argv, [TuneSettings]))


def _serve(settings: ServerSettings) -> None:
    started = time.monotonic()
    make_nonblocking(sys.stdout)
    make_nonblocking(sys.stderr)
    app = App(settings)
    stop = stop_on_signals(app)
    app.on_fault(stop.set)
    set_up_logs(settings.log_level, app.metrics.dropped_log_lines.inc)
    app.start()
    with app.registry.lease() as engine:
        manifest, catalogue = engine.bundle.manifest, engine.catalogue
        popular = catalogue.popular(catalogue.resolve_filter(Filter(), ()), SAMPLED_ITEMS)
    write_text(
        sys.stdout,
        f"ready in {time.monotonic() - started:.1f} s: {manifest.name} version {manifest.version} on "
        f"{join_address(settings.host, app.port)}, "
        f"metrics on {join_address(settings.metrics_host, app.metrics_port)}\n"
        f"try: {hint(settings, app.port, [item for item, _ in popular], program_as_typed(sys.argv[0]))}\n",
    )
    stop.wait()
    app.stop()
    logging.shutdown()
    os._exit(
        EXIT_FAULT if app.fault else 0
    )  # a thread that is loading a bundle would keep the process alive beyond the grace


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
