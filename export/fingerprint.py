"""Fingerprints of what a stage reads: files by their content, code by the text of its package."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from swiftrec.export.errors import ExportError

_CACHED_FILES = 100_000


def of_path(path: Path, *, without: Path | None = None) -> list[list[str]]:
    """Name and SHA-256 of every file in a folder (or of one file), sorted; times do not count.

    Args:
        path: a folder or a file.
        without: a folder in it whose files do not count; one that `path` is, or is in, is no such folder.

    Raises:
        ExportError: a file cannot be read.
    """
    left_out = without.resolve() if without is not None and _is_inside(without, path) else None
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        counted = [file for file in files if left_out is None or not file.resolve().is_relative_to(left_out)]
        return [[str(file.relative_to(path)), _hash_of(file)] for file in counted]
    except OSError as error:
        raise ExportError(
            f"{error.filename or path} cannot be read ({error.strerror}): make it readable, and leave the folder alone "
            "while the export reads it"
        ) from None


def _is_inside(inner: Path, outer: Path) -> bool:
    return inner.resolve() != outer.resolve() and inner.resolve().is_relative_to(outer.resolve())


def of_code(module: str) -> str:
    """Hash of the Python files in the module's folder.

    Raises:
        ExportError: there is no such module.
    """
    digest = hashlib.sha256()
    for path in sorted(_file_of(module).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def of_module(module: str) -> str:
    """Hash of the module's file alone.

    Raises:
        ExportError: there is no such module.
    """
    return _hash_of(_file_of(module))


def _file_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ExportError(f"stage module {module} is missing")
    return Path(spec.origin)


def _hash_of(file: Path) -> str:
    """Read again only if size, times or inode changed: the key of a stage is computed several times in a run."""
    stat = file.stat()
    return _hash(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(_CACHED_FILES)
def _hash(file: Path, *_state: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
