"""Result files: each tool writes one, whole or not at all, into a new folder `benchmarks/results/<date>-<machine>/`."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.environment import fingerprint

SCHEMA = 2
RESULTS = Path("benchmarks/results")
_MAX_FOLDERS = 1_000  # of one machine within one second

Number = Annotated[float, BeforeValidator(lambda value: float("nan") if value is None else value)]
"""A figure; null in JSON if it was not measured."""
ResultRow = Mapping[str, Any]
"""A row of a result file, as its tool wrote it."""


class ToolResult(BaseModel):
    """What the result file of every tool begins with; `file` is its name."""

    model_config = ConfigDict(extra="ignore")
    file: ClassVar[str]
    tool: ClassVar[str]

    schema_version: int = SCHEMA
    is_partial: bool = Field(True, description="whether something is missing; `reason` says why")
    reason: str = "the run has not ended"
    started: str
    machine: dict[str, str]
    commit: str
    bundle: dict[str, str] = Field({}, description="name, version and export_key of the measured bundle")
    settings: dict[str, Any] = {}

    @classmethod
    def begin(cls, bundle: BundleId | None, settings: BaseModel) -> Self:
        """A result of now without figures, marked partial."""
        machine = fingerprint()
        return cls(
            started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            machine=machine,
            commit=machine["commit"],
            bundle=bundle.fields() if bundle else {},
            settings=settings.model_dump(mode="json"),
        )

    def finish(self, reason: str = "") -> None:
        """Mark the result as complete, or as partial for a reason."""
        self.is_partial, self.reason = bool(reason), reason

    @property
    def bundle_id(self) -> BundleId | None:
        """The bundle that everything in this result was measured with; None if it does not name one."""
        return BundleId.read(self.bundle)


R = TypeVar("R", bound=ToolResult)


def new_folder(results: Path, machine: dict[str, str]) -> Path:
    """Make a folder with a new name.

    Raises:
        OSError: it cannot be made.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", machine["cpu"].partition("(")[0]).strip("-").lower()
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())
    for number in range(_MAX_FOLDERS):
        folder = results / f"{stamp}-{name}-{machine['cores']}c{f'-{number}' if number else ''}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{results}: no free name for a result of {stamp}: move older results away")


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


def save(folder: Path, result: ToolResult) -> Path:
    """Write the result into the folder; give its file."""
    write(folder, result.file, result.model_dump_json(indent=1).encode())
    return folder / result.file


def result_file(path: Path, kind: type[ToolResult]) -> Path:
    """The file of a result, given its folder or the file."""
    return path / kind.file if path.is_dir() else path


def load(path: Path, kind: type[R]) -> R:
    """Read a result, given its folder or its file.

    Raises:
        RuntimeError: there is none, it is of another kind or format, or it does not name its bundle.
    """
    file = result_file(path, kind)
    try:
        result = kind.model_validate_json(file.read_bytes())
    except OSError as error:
        raise RuntimeError(f"{file}: no result ({error.strerror}): run {kind.tool}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise RuntimeError(f"{file}: not a result: {field}{first['msg']}: measure again, or move it away") from None
    if result.schema_version != SCHEMA:
        raise RuntimeError(f"{file}: written in format {result.schema_version}, this is {SCHEMA}: measure again")
    if result.bundle_id is None:
        raise RuntimeError(f"{file}: its bundle is unknown, since it names no export key: measure again")
    return result


def load_all(results: Path, kind: type[R]) -> Iterator[tuple[Path, R]]:
    """Folders with their result of this kind, newest first; stderr names each that cannot be read."""
    for file in sorted(results.glob(f"*/{kind.file}"), key=lambda file: file.parent.name, reverse=True):
        try:
            result = load(file, kind)
        except RuntimeError as error:
            report_ignored(str(error))
            continue
        yield file.parent, result


def report_ignored(what: str) -> None:
    """Name on stderr a result that is not used, and why."""
    sys.stderr.write(f"swiftrec bench: ignored: {what}\n")
