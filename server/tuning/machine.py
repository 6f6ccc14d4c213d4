"""Describes the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processor, usable cores and system, for example "AMD EPYC, 2 cores, Linux x86_64"."""
    name = processor().get("model name") or platform.processor() or "unknown processor"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"


def processor() -> dict[str, str]:
    """The fields of /proc/cpuinfo for the first processor: "model name", "flags", ...; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
