"""Where results lie: `benchmarks/results/<date>-<machine>/`. A file is there whole or not at all."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from swiftrec.benchmarks.suite.result import SCHEMA, Result

RESULT = "result.json"


def new_folder(results: Path, machine: dict[str, str]) -> Path:
    """Make a folder with a name that was not there before.

    Raises:
        OSError: it cannot be made.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", machine["cpu"].partition("(")[0]).strip("-").lower()
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
    for number in range(1_000):
        folder = results / f"{stamp}-{name}-{machine['cores']}c{f'-{number}' if number else ''}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{results}: no free name for a result of {stamp}")


def write(folder: Path, name: str, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
        try:
            scratch.write(data)
            scratch.close()
            Path(scratch.name).chmod(0o644)
            Path(scratch.name).replace(folder / name)
        except OSError:
            Path(scratch.name).unlink(missing_ok=True)
            raise


def save(folder: Path, result: Result) -> None:
    """Write result.json."""
    write(folder, RESULT, result.model_dump_json(indent=1).encode())


def file_of(path: Path) -> Path:
    """The file of a result: in its folder, or this one."""
    return path / RESULT if path.is_dir() else path


def load(path: Path) -> Result:
    """Read a result: its folder, or the file.

    Raises:
        RuntimeError: there is none, it is of another kind, or it does not name its bundle.
    """
    file = file_of(path)
    try:
        found = Result.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RuntimeError(f"{file}: no result ({error.strerror}): run make bench") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise RuntimeError(f"{file}: no result: {where}{first['msg']}: measure again, or move it away") from None
    if found.schema_version != SCHEMA:
        raise RuntimeError(f"{file}: written in format {found.schema_version}, this is {SCHEMA}: measure again")
    if found.bundle_id is None:
        raise RuntimeError(f"{file}: of an unknown bundle, since it names no export key: measure again")
    return found


def folders(results: Path) -> list[Path]:
    """Folders with a result, newest first."""
    found = [path.parent for path in results.glob(f"*/{RESULT}")]
    return sorted(found, key=lambda folder: folder.name, reverse=True)


def every(results: Path) -> Iterator[tuple[Path, Result]]:
    """Folders with their result, newest first; one that cannot be read is named on stderr and left out."""
    for folder in folders(results):
        try:
            found = load(folder)
        except RuntimeError as error:
            say_left_out(str(error))
            continue
        yield folder, found


def say_left_out(what: str) -> None:
    """Name on stderr a result that is not used, and why."""
    sys.stderr.write(f"benchmarks: left out: {what}\n")
