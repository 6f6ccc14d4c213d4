"""Files that tests replace atomically."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, *parts: bytes) -> Path:
    """Write another file and rename it: readers see the old content or the new, never a part."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(b"".join(parts))
    return beside.replace(path)
