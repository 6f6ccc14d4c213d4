"""`python -m export`: run the stages that are not fresh, or one, or another command (`--help` lists them).

A run that ends with a bundle prints the bundle's folder on standard output, and so does `where`, which runs nothing.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from export.config import ExportSettings
from export.data import doctor
from export.errors import ExportError
from export.package import targets
from export.package.ladder import report
from export.planted import command as planted
from export.stage import Job, run_all, run_one
from export.threads import prepare_threads
from server.config import read_settings
from server.errors import ConfigError
from server.flags import with_flags


def _measure_seeds(argv: list[str]) -> int:
    from export.seeds.command import main  # torch takes seconds to import

    return main(argv)


_COMMANDS: Mapping[str, Callable[[list[str]], int]] = MappingProxyType(
    {"doctor": doctor.main, "planted": planted.main, "seeds": _measure_seeds, "targets": targets.main}
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
            from export.evaluate.teacher import compare_teacher  # torch takes seconds to import

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


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its remarks on unused weights are not news
    logging.disable(logging.WARNING)  # of libraries; what matters here is printed or raised
    prepare_threads()
    sys.exit(main(sys.argv[1:]))
