"""The commands `swiftrec export`, `swiftrec doctor` and `swiftrec report`.

An export that ends with a bundle prints the bundle's folder on standard output; `swiftrec export where` prints it
without running anything.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from swiftrec.__main__ import suggestion
from swiftrec.export.config import ExportSettings
from swiftrec.export.data import doctor
from swiftrec.export.errors import ExportError
from swiftrec.export.job import Job
from swiftrec.export.planted import command as planted
from swiftrec.export.promises import command as promises
from swiftrec.export.report import command as report
from swiftrec.export.stages.order import EVALUATION, STAGES
from swiftrec.export.stages.runner import run_all, run_one
from swiftrec.export.threads import prepare_threads
from swiftrec.server.errors import ConfigError
from swiftrec.server.flags import with_flags
from swiftrec.server.settings_reader import read_settings


def _measure_seeds(argv: list[str]) -> int:
    from swiftrec.export.seeds.command import main  # torch takes seconds to import

    return main(argv)


_WHERE = "where"
_STAGES = (*(stage.name for stage in STAGES), EVALUATION.name, _WHERE)
_COMMANDS: Mapping[str, Callable[[list[str]], int]] = MappingProxyType(
    {
        "doctor": doctor.main,
        "planted": planted.main,
        "report": report.main,
        "seeds": _measure_seeds,
        "targets": promises.main,
    }
)


def _require_stage(name: str | None) -> None:
    """Refuse a word that is neither a stage nor a command.

    Raises:
        ConfigError: names the nearest stage or command; or a command comes after a flag.
    """
    if name in _COMMANDS:
        raise ConfigError(f"{name} comes after a flag: put it first, as in swiftrec export {name}")
    if name not in {None, *_STAGES}:
        hint = suggestion(name or "", "swiftrec export", [*_STAGES, *_COMMANDS], "stages and commands")
        raise ConfigError(f"unknown stage or command {name}: {hint}")


def main(argv: list[str]) -> int:
    """Run the stages that are not up to date, or the command that `argv` begins with.

    Returns:
        Exit code 0; 1 if `targets` finds a promise that is not kept; 2 with one sentence on stderr; 130 after Ctrl-C.
    """
    program = f"swiftrec {argv[0]}" if argv and argv[0] in {"doctor", "report"} else "swiftrec export"
    try:
        arguments = with_flags(argv, os.environ)
        if arguments and arguments[0] in _COMMANDS:
            return _COMMANDS[arguments[0]](arguments[1:])
        settings = read_settings(ExportSettings, arguments)
        _require_stage(settings.stage)
        job = Job(settings)
        if settings.stage is None:
            run_all(job)
            sys.stdout.write(f"{settings.bundle}\n")
        elif settings.stage == _WHERE:
            sys.stdout.write(f"{settings.bundle}\n")
        elif settings.stage == EVALUATION.name:
            from swiftrec.export.stages.teacher import compare_teacher  # torch takes seconds to import

            compare_teacher(job)
        else:
            run_one(job, settings.stage)
    except (ExportError, ConfigError) as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{program}: interrupted; the next run resumes after the last finished stage\n")
        return 130
    return 0


def program(argv: list[str]) -> int:
    """`main` as the only program of this process: sets threads and logging for the whole process."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # warnings about unused weights are expected
    logging.disable(logging.WARNING)  # of libraries: our own messages are printed or raised
    prepare_threads()
    return main(argv)


if __name__ == "__main__":
    sys.exit(program(sys.argv[1:]))
