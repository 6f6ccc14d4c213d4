"""Synthetic catalogues, and the memory for reading one: `python -m tests.export.catalogues FOLDER stream|all`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from swiftrec.export.data.columns import ITEMS
from swiftrec.export.data.issues import Issues
from swiftrec.export.data.loader import load
from swiftrec.export.data.tables import find_table

_CHUNK = 10_000

MakeRow = Callable[[int], list[str]]


def write_catalogue(folder: Path, items: int, suffix: str) -> None:
    """Write `items` items with a text of about 400 characters, and two events an item, of a tenth as many users."""
    folder.mkdir(parents=True)
    users = max(2, items // 10)
    write = _write_csv if suffix == "csv" else _write_parquet
    write(folder / f"items.{suffix}", ["item_id", "text", "kind"], items, _item)
    write(
        folder / f"interactions.{suffix}",
        ["user_id", "item_id", "timestamp"],
        2 * items,
        lambda n: [f"user-{n % users}", f"item-{n * 7919 % items}", str(n)],
    )


def _item(n: int) -> list[str]:
    words = " ".join(f"word{n * k % 9973}" for k in range(1, 12))
    return [f"item-{n}", f"thing {n} {words} {words} {words} {words}", f"kind {n % 50}"]


def _write_csv(path: Path, names: list[str], number: int, row: MakeRow) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(names) + "\n")
        file.writelines(",".join(row(n)) + "\n" for n in range(number))


def _write_parquet(path: Path, names: list[str], number: int, row: MakeRow) -> None:
    schema = pa.schema([(name, pa.string()) for name in names])
    with parquet.ParquetWriter(path, schema) as file:
        for start in range(0, number, _CHUNK):
            columns = zip(*(row(n) for n in range(start, min(number, start + _CHUNK))), strict=True)
            file.write_table(pa.table(list(map(list, columns)), schema=schema))


def _peak_mb() -> float:
    """Largest resident size of this process so far, in 10^6 bytes (getrusage would count the parent's, too)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


def _read_all(folder: Path) -> Iterator[object]:
    """The control: every row of the items in memory at once."""
    table = find_table(folder, "items", ITEMS, Issues())
    assert table is not None
    yield list(table.rows())


def main(folder: Path, how: str) -> None:
    """Print the peak of memory (10^6 bytes), beyond the imports, and the seconds of reading."""
    before, started = _peak_mb(), time.monotonic()
    with tempfile.TemporaryDirectory() as target:
        result = load(folder, Path(target)) if how == "stream" else next(_read_all(folder))
        sys.stdout.write(f"{_peak_mb() - before:.1f} {time.monotonic() - started:.1f}\n")
        del result


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
