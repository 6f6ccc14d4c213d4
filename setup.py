"""Prepares a checkout for setuptools, which is configured in pyproject.toml.

Some programs unpack the links of `swiftrec/` as files (pip does, from a zip): they are made links again. Modules that
an earlier build has left in build/lib, and that exist no more, must not get into the wheel.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

for name in ("server", "export", "benchmarks"):
    link = ROOT / "swiftrec" / name
    if not link.is_dir():
        link.unlink(missing_ok=True)
        link.symlink_to(f"../{name}")
shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
setup()
