"""`swiftrec export`: run the stages that are not fresh, or one, or another command (`--help` lists them).

A run that ends with a bundle prints the bundle's folder on standard output, and so does `where`, which runs nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from swiftrec.export.config import ExportSettings
from swiftrec.export.data import doctor
from swiftrec.export.errors import ExportError
from swiftrec.export.planted import command as planted
from swiftrec.export.report import promises
from swiftrec.export.report.ladder import report
from swiftrec.export.stages.runner import Job, run_all, run_one
from swiftrec.export.threads import prepare_threads
from swiftrec.server.config import read_settings
from swiftrec.server.errors import ConfigError
from swiftrec.server.flags import with_flags


def _measure_seeds(argv: list[str]) -> int:
    from swiftrec.export.seeds.command import main  # torch takes seconds to import

    return main(argv)


_COMMANDS: Mapping[str, Callable[[list[str]], int]] = MappingProxyType(
    {"doctor": doctor.main, "planted": planted.main, "seeds": _measure_seeds, "targets": promises.main}
)


def main(argv: list[str]) -> int:
    """Exit code 0, or 1 where `targets` finds one missed, or 2 with one sentence on stderr, or 130 after Ctrl-C."""
    try:
        arguments = with_flags(argv, os.environ)
        if arguments and arguments[0] in _COMMANDS:
            return _COMMANDS[arguments[0]](arguments[1:])
        settings = read_settings(ExportSettings, arguments)
        job = Job(settings)
        if settings.stage is None:
            run_all(job)
            sys.stdout.write(f"{settings.bundle}\n")
        elif settings.stage == "where":
            sys.stdout.write(f"{settings.bundle}\n")
        elif settings.stage == "teacher":
            from swiftrec.export.stages.teacher import compare_teacher  # torch takes seconds to import

            compare_teacher(job)
        elif settings.stage == "report":
            report(settings)
        else:
            run_one(job, settings.stage)
    except (ExportError, ConfigError) as error:
        sys.stderr.write(f"export: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nexport: stopped; the next run goes on from what is finished\n")
        return 130
    return 0


def program(argv: list[str]) -> int:
    """`main` in a process that does nothing else: threads and logging are set for the whole process."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its remarks on unused weights are not news
    logging.disable(logging.WARNING)  # of libraries; what matters here is printed or raised
    prepare_threads()
    return main(argv)


if __name__ == "__main__":
    sys.exit(program(sys.argv[1:]))
