"""Students: the shape that a name means, the weights that a student starts with, and its files."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertModel

from swiftrec.export.errors import ExportError
from swiftrec.export.models.encoder import TextEncoder
from swiftrec.export.models.static import StaticEncoder

STATIC = "static"
STUDENTS = "students.json"
_WEIGHTS, _RECORD = "student.safetensors", "student.json"
_NAME = re.compile(r"bert([1-9]\d*)(?:x([1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class StudentShape:
    """A student's shape: transformer layers (0: none) and width (0: the teacher's)."""

    layers: int
    width: int = 0

    @classmethod
    def parse(cls, name: str) -> StudentShape:
        """Read "bert3", "bert2x192" or "static".

        Raises:
            ExportError: the name is none of these.
        """
        if name == STATIC:
            return cls(0)
        match = _NAME.fullmatch(name)
        if match is None:
            raise ExportError(f"{name!r} is no student: use bert<layers>, bert<layers>x<width> or static")
        return cls(int(match[1]), int(match[2] or 0))

    @property
    def name(self) -> str:
        """The name that `parse` reads."""
        if not self.layers:
            return STATIC
        return f"bert{self.layers}x{self.width}" if self.width else f"bert{self.layers}"


@dataclass(frozen=True, slots=True)
class StudentRecord:
    """student.json: the student's shape, the teacher's layers that it started with, and its loss by epoch.

    `dimensions` and `sentence_dimensions` are the lengths of the two halves of its vectors.
    """

    name: str
    kind: str
    layers: list[int]
    hidden: int
    dimensions: int
    sentence_dimensions: int = 0
    pairs: int = 0
    losses: list[float] = field(default_factory=list)


def parse_students(names: Sequence[str], layers: int, hidden: int) -> list[StudentShape]:
    """The students of a teacher with this size: none is deeper or as wide, and none occurs twice.

    Raises:
        ExportError: a name is unknown, a student is deeper than the one before it, with whose weights it would start,
            or all are too wide.
    """
    shapes = [StudentShape.parse(name) for name in names]
    fitting = [replace(shape, layers=min(shape.layers, layers)) for shape in shapes if shape.width < hidden]
    depths = [shape.layers for shape in fitting if shape.layers]
    if depths != sorted(depths, reverse=True):
        raise ExportError(
            "--students: name the students from deep to shallow: each starts with the weights of the one before it"
        )
    if not fitting:
        raise ExportError(f"--students: {', '.join(names)} is not narrower than the teacher's {hidden}: name another")
    return list(dict.fromkeys(fitting))


def spread(layers: int, keep: int) -> list[int]:
    """`keep` of `layers` layers, evenly, first and last among them: 3 of 6 are 0, 2, 5."""
    keep = min(keep, layers)
    return [0] if keep == 1 else [n * (layers - 1) // (keep - 1) for n in range(keep)]


def drop_layers(deeper: TextEncoder, keep: list[int]) -> TextEncoder:
    """A copy of an encoder with only the given layers."""
    student = copy.deepcopy(deeper)
    student.backbone.encoder.layer = nn.ModuleList([student.backbone.encoder.layer[n] for n in keep])
    student.backbone.config.num_hidden_layers = len(keep)
    return student.eval()  # no dropout: the targets are fixed


def save_student(student: TextEncoder | StaticEncoder, record: StudentRecord, folder: Path) -> None:
    """Write student.safetensors, student.json and, of a BERT, its config.json."""
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in student.state_dict().items()}, folder / _WEIGHTS)
    (folder / _RECORD).write_text(json.dumps(asdict(record), indent=1))
    if isinstance(student, TextEncoder):
        student.backbone.config.save_pretrained(folder)


def load_student(folder: Path) -> TextEncoder | StaticEncoder:
    """Read the files of `save_student`."""
    record, weights = StudentRecord(**json.loads((folder / _RECORD).read_text())), load_file(folder / _WEIGHTS)
    student: TextEncoder | StaticEncoder
    if record.kind == STATIC:
        pieces = len(weights["table.weight"]) - record.pairs
        student = StaticEncoder(pieces, record.pairs, record.dimensions, record.sentence_dimensions)
    else:
        config = BertConfig.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
        bert = BertModel(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]
        student = TextEncoder(bert, record.dimensions, record.sentence_dimensions)
    student.load_state_dict(weights)
    return student.eval()
