"""`python -m export`: run the stages that are not fresh, or one; `teacher`; `report`; `targets`; `doctor DATA`."""

from __future__ import annotations

import logging
import os
import sys

from export.config import ExportSettings
from export.data import doctor
from export.errors import ExportError
from export.package import targets
from export.package.ladder import report
from export.stage import Job, run_all, run_one
from export.threads import prepare_threads
from server.config import read_settings
from server.errors import ConfigError


def main() -> int:
    """Exit code 0, or 1 where `targets` finds one missed, or 2 with one sentence on stderr, or 130 after Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its remarks on unused weights are not news
    logging.disable(logging.WARNING)  # of libraries; what matters here is printed or raised
    try:
        if sys.argv[1:2] == ["doctor"]:
            return doctor.main(sys.argv[2:])
        if sys.argv[1:2] == ["targets"]:
            return targets.main(sys.argv[2:])
        settings = read_settings(ExportSettings)
        job = Job(settings)
        if settings.stage is None:
            run_all(job)
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
    prepare_threads()
    sys.exit(main())
