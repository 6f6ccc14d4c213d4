"""Files of a test, replaced as a careful operator does it."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, *parts: bytes) -> Path:
    """Write beside and rename: a reader sees the old file or the new one, never half of it."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(b"".join(parts))
    return beside.replace(path)
