"""The ladder of students as this room sees it: the shape of each and where its graphs are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_RECORD = "students.json"


@dataclass(frozen=True, slots=True)
class Student:
    """One student's shape; `layers` is 0 for the static one, `words` the rank of its table if it has factors."""

    name: str
    layers: int
    hidden: int
    words: int = 0

    @property
    def graph(self) -> str:
        """File of its fused fp32 graph, beside the record."""
        return f"fused.{self.name}.onnx"

    @property
    def traced(self) -> str:
        """File of the graph as it was before fusion, if it was kept."""
        return f"traced.{self.name}.onnx"


def save_students(found: Sequence[Student], folder: Path) -> None:
    """Write `students.json`."""
    (folder / _RECORD).write_text(json.dumps([asdict(student) for student in found], indent=1))


def read_students(folder: Path) -> list[Student]:
    """Read what `save_students` wrote."""
    return [Student(**row) for row in json.loads((folder / _RECORD).read_text())]
