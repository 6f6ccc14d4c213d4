"""`swiftrec bench`: the whole run; what was found is kept whatever happens."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from swiftrec.benchmarks.extra import need, sentence
from swiftrec.benchmarks.machine import fingerprint
from swiftrec.benchmarks.process import load_cores
from swiftrec.benchmarks.suite import html, scenarios, store, terminal
from swiftrec.benchmarks.suite.bench import Bench
from swiftrec.benchmarks.suite.parts import measure_parts
from swiftrec.benchmarks.suite.raw import Raw
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.rounds import Rounds
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.benchmarks.suite.start import ceiling, check_device, start
from swiftrec.server.errors import SwiftrecError

_EXTRA = ("plotly", "pyarrow", "hdrh.histogram")


def run(settings: BenchSettings) -> int:
    """Measure, write the report; the last line is the result as JSON.

    Returns:
        0; 1 if the figures are worthless (`failures`) or partial.

    Raises:
        RuntimeError: nothing could be measured.
    """
    for module in _EXTRA:
        need(module)
    check_device(settings.device)
    load_cores()
    machine, raw = fingerprint(), Raw()
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result = Result(
        started=started,
        machine=machine,
        commit=machine["commit"],
        settings=settings.model_dump(mode="json"),
        main=settings.main,
    )
    bench = Bench(settings, result, raw)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run as Ctrl-C does: what was found is kept
    if settings.device == "cuda":
        result.notes.append("DEVICE=cuda: floor and server in wall time; this code was never run on a GPU before")
    _measure(bench)
    folder = _report(bench)
    sys.stdout.write(f"{terminal.block(result)}\n{_where(folder)}\n{result.model_dump_json()}\n")
    sys.stdout.flush()
    for problem in (*result.failures, *([result.reason] if result.is_partial else [])):
        sys.stderr.write(f"benchmarks bench: {problem}\n")
    return 1 if result.failures or result.is_partial else 0


def _measure(bench: Bench) -> None:
    """Everything in order; an error leaves what was found so far, marked partial.

    Raises:
        RuntimeError, SwiftrecError: it could not even begin.
    """
    result = bench.result
    try:
        with ExitStack() as stack:
            start(bench, stack)
            client = ceiling(bench)
            _say(
                f"the client's own ceiling: {client.ceiling_per_s:.0f} requests/s on {client.processes} core(s), "
                f"{client.client_us:.0f} us each; {client.reached_per_s:.0f}/s reached against a bare server"
            )
            _phases(bench)
        result.is_partial, result.reason = False, ""
    except (SwiftrecError, RuntimeError, OSError, ValueError) as error:
        if not result.points:
            raise
        result.reason = f"partial: {sentence(error)}"
    except KeyboardInterrupt:
        result.reason = "partial: it was interrupted"
    result.seconds = bench.clock() - bench.began


def _phases(bench: Bench) -> None:
    settings = bench.settings
    Rounds(bench, _say).run(settings.rounds or bench.plan.rounds)
    scenarios.read_curve(bench)
    scenarios.ladder(bench, _say)
    bench.keep()
    scenarios.offline(bench, _say)
    if bench.is_over():
        bench.result.notes.append("the parts alone were not measured: no time was left")
    elif bench.floor is not None:
        _say("the parts alone")
        bench.result.parts = measure_parts(bench.floor, settings.bundle, bench.plan.part_s, bench.plan.cells)


def _report(bench: Bench) -> Path | None:
    """Write the folder; None, and a partial result, if the disk does not take it."""
    result = bench.result
    try:
        folder = bench.keep()
        bench.raw.write(folder)
        store.write(folder, html.REPORT, html.page(result, bench.raw).encode())
        store.save(folder, result)
    except OSError as error:
        result.is_partial, result.reason = True, f"partial: {sentence(error)}; the result stands on stdout"
    return bench.folder


def _where(folder: Path | None) -> str:
    return f"report: {folder / html.REPORT}" if folder else "no report was written"


def _say(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
