"""Where results lie: `benchmarks/results/<date>-<machine>/`. A file is there whole or not at all."""

from __future__ import annotations

import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.machine import fingerprint
from benchmarks.suite.result import Result

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


def load(path: Path) -> Result:
    """Read a result: its folder, or the file.

    Raises:
        RuntimeError: there is none, or it is of another kind.
    """
    file = path / RESULT if path.is_dir() else path
    try:
        return Result.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RuntimeError(f"{file}: no result ({error.strerror}): run make bench") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise RuntimeError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def folders(results: Path) -> list[Path]:
    """Folders with a result, newest first."""
    found = [path.parent for path in results.glob(f"*/{RESULT}")]
    return sorted(found, key=lambda folder: folder.name, reverse=True)


def join(section: str, value: Any, results: Path) -> Path:  # noqa: ANN401 (whatever the section holds)
    """Put what was measured apart into the newest result of this machine and commit, or into a new one.

    This is how the rows of `peers`, `catalogue` and `teacher` get into result.json and the summary.

    Args:
        section: a field of `Result`.
        value: what its class takes.
        results: folder of results.

    Raises:
        pydantic.ValidationError: it is not what the section takes.
        OSError: it cannot be written.
    """
    machine = fingerprint()
    folder = next((one for one in folders(results) if _is_of(one, machine)), None)
    if folder is None:
        folder = new_folder(results, machine)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        reason = f"only {section} was measured"
        fresh = Result(started=started, machine=machine, commit=machine["commit"], settings={}, reason=reason)
        save(folder, fresh)
    found = json.loads(load(folder).model_dump_json()) | {section: value}
    save(folder, Result.model_validate(found))
    return folder


def _is_of(folder: Path, machine: dict[str, str]) -> bool:
    try:
        found = load(folder)
    except RuntimeError:
        return False
    return found.commit == machine["commit"] and found.machine["cpu"] == machine["cpu"]
