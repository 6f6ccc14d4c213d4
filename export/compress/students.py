"""The ladder of students as this room sees it: the shape of each, where its graphs are and whether they are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from swiftrec.export.gates import Outcome

_RECORD = "students.json"


@dataclass(frozen=True, slots=True)
class Student:
    """One student's shape.

    `layers` is 0 for the static one, `dimensions` the length of the ranker half of its vectors, behind which the
    sentence half is. `gates` are those that its fused graph went
    through; one that failed takes the student out.
    """

    name: str
    layers: int
    hidden: int
    dimensions: int
    gates: tuple[Outcome, ...] = ()

    @property
    def graph(self) -> str:
        """File of its fused fp32 graph, beside the record."""
        return graph_file(self.name)

    @property
    def traced(self) -> str:
        """File of the graph as it was before fusion, if it was kept."""
        return traced_file(self.name)


def graph_file(name: str) -> str:
    """File of the fused fp32 graph of the student of that name."""
    return f"fused.{name}.onnx"


def traced_file(name: str) -> str:
    """File of its graph before fusion."""
    return f"traced.{name}.onnx"


_RECORDS = TypeAdapter(list[Student])


def save_students(found: Sequence[Student], folder: Path) -> None:
    """Write `students.json`."""
    (folder / _RECORD).write_bytes(_RECORDS.dump_json(list(found), indent=1))


def read_students(folder: Path) -> list[Student]:
    """Read what `save_students` wrote."""
    return _RECORDS.validate_json((folder / _RECORD).read_bytes())
