"""`swiftrec bench`: the whole run; everything measured is kept, also if it ends early."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.environment import check_device
from swiftrec.benchmarks.microbenchmarks.server_parts import measure_parts
from swiftrec.benchmarks.optional_deps import error_sentence, require_module
from swiftrec.benchmarks.server_process import load_cores
from swiftrec.benchmarks.suite import curve, render, rows, sentences
from swiftrec.benchmarks.suite.context import BenchContext
from swiftrec.benchmarks.suite.prepare import client_limit, start
from swiftrec.benchmarks.suite.result import Result
from swiftrec.benchmarks.suite.results import RawRows
from swiftrec.benchmarks.suite.rounds import Rounds
from swiftrec.benchmarks.suite.settings import BenchSettings
from swiftrec.server.errors import SwiftrecError

_REQUIRED = ("pyarrow", "hdrh.histogram", "jinja2")


def run(settings: BenchSettings) -> int:
    """Measure and write the report; the last line is the result as JSON.

    Returns:
        0; 1 if the figures are invalid (`failures`) or partial.

    Raises:
        RuntimeError: nothing could be measured.
    """
    for module in _REQUIRED:
        require_module(module)
    check_device(settings.device)
    load_cores()
    result = Result.begin(None, settings)
    result.main = settings.main
    bench = BenchContext(settings, result, RawRows())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run like Ctrl-C: what was measured is kept
    if settings.device == "cuda":
        result.notes.append("--device cuda: floor and server in wall time; this code has never run on a GPU before")
    _measure(bench)
    folder = _write_report(bench)
    line = f"report: {folder / render.REPORT}" if folder else "no report was written"
    sys.stdout.write(f"{text(result)}\n{line}\n{result.model_dump_json()}\n")
    sys.stdout.flush()
    for problem in (*result.failures, *([result.reason] if result.is_partial else [])):
        sys.stderr.write(f"swiftrec bench: {problem}\n")
    return 1 if result.failures or result.is_partial else 0


def _measure(bench: BenchContext) -> None:
    """All phases in order; an error leaves what was measured so far, marked partial.

    Raises:
        RuntimeError, SwiftrecError: nothing was measured.
    """
    result = bench.result
    try:
        with ExitStack() as stack:
            start(bench, stack)
            client = client_limit(bench)
            _progress(
                f"the client can send {client.ceiling_per_s:.0f} requests/s with {client.processes} process(es), "
                f"{client.client_us:.0f} us each; a bare server answered {client.reached_per_s:.0f}/s"
            )
            _run_phases(bench)
        result.finish()
    except (SwiftrecError, RuntimeError, OSError, ValueError) as error:
        if not result.points:
            raise
        result.finish(f"partial: {error_sentence(error)}")
    except KeyboardInterrupt:
        result.finish("partial: it was interrupted")
    result.seconds = bench.clock() - bench.began


def _run_phases(bench: BenchContext) -> None:
    settings = bench.settings
    Rounds(bench, _progress).run(settings.rounds or bench.size.rounds)
    curve.read_curve(bench)
    curve.closed_loop_steps(bench, _progress)
    bench.keep()
    curve.batch_rate(bench, _progress)
    if bench.is_over():
        bench.result.notes.append("the parts were not measured alone: no time was left")
    elif bench.floor is not None:
        _progress("the parts alone")
        bench.result.parts = measure_parts(bench.floor, settings.bundle, bench.size.part_s, bench.size.cells)


def _write_report(bench: BenchContext) -> Path | None:
    """Write the folder; None, and a partial result, if the disk is full."""
    result = bench.result
    try:
        folder = bench.keep()
        bench.raw.write(folder)
        result_files.write(folder, render.REPORT, render.report(result, bench.raw).encode())
        result_files.save(folder, result)
    except OSError as error:
        result.finish(f"partial: {error_sentence(error)}; the result is on stdout")
    return bench.folder


def text(result: Result) -> str:
    """Everything that fits on one screen."""
    machine = result.machine
    sections = [
        f"{sentences.title(result)}; {machine['cpu']}, {machine['cores']} cores, load {machine['load']}; "
        f"commit {result.commit}; {result.seconds:.0f} s",
        *(sentences.headline(result), sentences.slo_line(result)),
        "median (range) over rounds; CPU us a recommendation",
        *(str(table) for table in rows.tables(result) if table.rows),
        *(f"WARNING: {warning}" for warning in sentences.warnings(result)),
        *(f"note: {note}" for note in result.notes),
    ]
    return "\n\n".join(section for section in sections if section)


def _progress(text: str) -> None:
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()
