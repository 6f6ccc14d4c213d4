"""`swiftrec export` in this process: importing its libraries again would take most of the time."""

from __future__ import annotations

import io
import subprocess
from contextlib import redirect_stderr, redirect_stdout

from swiftrec.export.__main__ import main


def run_export(*argv: str) -> subprocess.CompletedProcess[str]:
    """Exit code and output of the command with these arguments."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main([*argv])
    return subprocess.CompletedProcess(argv, code, stdout.getvalue(), stderr.getvalue())
