"""`students.json`: the shape of each student, and whether its fused graph is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from swiftrec.export.gates import Gate

_RECORD = "students.json"


@dataclass(frozen=True, slots=True)
class Student:
    """One student, from which stage `quantise` makes a variant in each precision.

    Args:
        name: "bert3", "bert2x192", "static".
        layers: transformer layers; 0 for the static student.
        hidden: width of the token vectors.
        dimensions: length of the ranker's half of its vectors, which is followed by the sentence half.
        gates: the gates of its fused graph; if one failed, no variant is made.
    """

    name: str
    layers: int
    hidden: int
    dimensions: int
    gates: tuple[Gate, ...] = ()

    @property
    def graph(self) -> str:
        """File of its fused fp32 graph, in the same folder as the record."""
        return graph_file(self.name)

    @property
    def traced(self) -> str:
        """File of the graph before fusion, if it was kept."""
        return traced_file(self.name)


def graph_file(name: str) -> str:
    """File of a student's fused fp32 graph."""
    return f"fused.{name}.onnx"


def traced_file(name: str) -> str:
    """File of a student's graph before fusion."""
    return f"traced.{name}.onnx"


_STUDENTS = TypeAdapter(list[Student])


def save_students(students: Sequence[Student], folder: Path) -> None:
    """Write `students.json`."""
    (folder / _RECORD).write_bytes(_STUDENTS.dump_json(list(students), indent=1))


def read_students(folder: Path) -> list[Student]:
    """Read what `save_students` wrote."""
    return _STUDENTS.validate_json((folder / _RECORD).read_bytes())
