"""The files of a table: one file, gzipped or not, or a folder of part files as Spark writes them."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, cast

from swiftrec.export.data.issues import NO_TABLE, UNREADABLE, Issues

Format = Literal["csv", "jsonl", "parquet"]

_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".parquet": "parquet",
}
_PART_FORMATS: dict[str, Format] = {**_FORMATS, ".json": "jsonl", ".json.gz": "jsonl"}  # Spark's name of JSON Lines
_UNFINISHED = "_temporary"  # Spark's folder for uncommitted output of its tasks
# Folders of a log that says which of the other files are current; the rest holds replaced and deleted rows.
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
_UTF8_MARK = b"\xef\xbb\xbf"
# First bytes of a file that is not UTF-8 text -> what is wrong and what to do; "{}" is its name.
_OTHER_MARKS = {
    b"\xff\xfe": "UTF-16 or UTF-32, needs UTF-8",
    b"\xfe\xff": "UTF-16, needs UTF-8",
    b"\x1f\x8b": "compressed by gzip: name it {}.gz",
    b"PAR1": "holds Parquet: let its name end with .parquet alone",
    b"PK\x03\x04": "a zip archive, as Excel writes: save it as CSV, not compressed or by gzip",
}
_MARK_BYTES = 4


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a table."""

    path: Path
    format: Format

    @property
    def unit(self) -> str:
        """The unit in which its rows are counted."""
        return "row" if self.format == "parquet" else "line"

    def open(self) -> BinaryIO:
        """Open a text file after its byte order mark.

        Raises:
            OSError: it cannot be opened or is not UTF-8; the message says what it is.
        """
        file = gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb")  # noqa: SIM115 (returned)
        try:
            self._skip_mark(file)
        except BaseException:
            file.close()
            raise
        return cast("BinaryIO", file)

    def _skip_mark(self, file: gzip.GzipFile | BufferedReader) -> None:
        mark = file.peek(_MARK_BYTES)[:_MARK_BYTES]
        for other, fault in _OTHER_MARKS.items():
            if mark.startswith(other):
                raise OSError(fault.format(self.path.name))
        if b"\0" in mark:
            raise OSError("starts with a NUL byte, so it is not UTF-8 text: save it as UTF-8")
        if mark.startswith(_UTF8_MARK):
            file.read(len(_UTF8_MARK))


def has_table(folder: Path, name: str) -> bool:
    """Whether `folder` has the table `name`, readable or not."""
    return (folder / name).is_dir() or any((folder / f"{name}{suffix}").exists() for suffix in _FORMATS)


def find_parts(folder: Path, name: str, issues: Issues, *, optional: bool) -> tuple[Path, tuple[Part, ...]] | None:
    """The path of the table `name` in `folder` and its files; None if there is not exactly one.

    The table is a file, or a folder of part files, called NAME.csv, NAME.csv.gz, NAME.jsonl, NAME.jsonl.gz or
    NAME.parquet; without any of these, a folder called NAME. A missing table is reported unless it is `optional`.
    """
    paths = {path: kind for suffix, kind in _FORMATS.items() if (path := folder / f"{name}{suffix}").exists()}
    if len(paths) > 1:
        issues.add(NO_TABLE, folder, f"{', '.join(path.name for path in paths)} exist: keep one")
    elif paths or (folder / name).is_dir():
        path = next(iter(paths), folder / name)
        parts = _parts_in(path, issues) if path.is_dir() else (Part(path, paths[path]),)
        return (path, parts) if parts else None
    elif not optional:
        others = sorted(path.name for path in folder.glob(f"{name}.*"))
        hint = f"; {', '.join(others)} cannot be read: convert it" if others else ""
        kinds = f"{name}.csv, {name}.jsonl or {name}.parquet"
        more = "also read: .csv.gz, .jsonl.gz, folders of part files"
        issues.add(NO_TABLE, folder, f"no {kinds} ({more}){hint}")
    return None


def _parts_in(folder: Path, issues: Issues) -> tuple[Part, ...]:
    """The part files of a folder in order of their names; as in Spark, names with "_" or "." in front are not data."""
    if (folder / _UNFINISHED).exists():
        issues.add(UNREADABLE, folder, f"holds {_UNFINISHED}: the job that writes it is still running or has failed")
        return ()
    if log := next((log for log in _LOGS if (folder / log).exists()), None):
        reason = f"a table of {_LOGS[log]}, whose files also hold replaced and deleted rows: write it as plain Parquet"
        issues.add(UNREADABLE, folder, reason)
        return ()
    parts: list[Part] = []
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(("_", "."))):
        if path.is_dir():
            remedy = "write it without partitionBy, with every column in the files"
            issues.add(UNREADABLE, folder, f"holds the folder {path.name}, needs only files: {remedy}")
            return ()
        if (suffix := _suffix_of(path, _PART_FORMATS)) is None:
            issues.add(
                UNREADABLE, path, "not a part in CSV, JSON Lines (.jsonl, .json), either of them gzipped, or Parquet"
            )
            return ()
        parts.append(Part(path, _PART_FORMATS[suffix]))
    if not parts:
        issues.add(NO_TABLE, folder, "holds no part files")
    if len({part.format for part in parts}) > 1:
        issues.add(UNREADABLE, folder, "holds parts of several formats: keep those of one")
        return ()
    return tuple(parts)


def _suffix_of(path: Path, formats: dict[str, Format]) -> str | None:
    """The longest of the suffixes that the file's name ends with."""
    return max((suffix for suffix in formats if path.name.endswith(suffix)), key=len, default=None)
