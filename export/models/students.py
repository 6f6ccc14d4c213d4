"""The rungs of the ladder: how a student's name says its shape, how it starts, and how it lies on disk."""

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
LADDER = "students.json"
_WEIGHTS, _RECORD = "student.safetensors", "student.json"
_NAME = re.compile(r"bert([1-9]\d*)(?:x([1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class Rung:
    """A student's shape: transformer layers (0: none) and width (0: the teacher's)."""

    layers: int
    width: int = 0

    @classmethod
    def parse(cls, name: str) -> Rung:
        """Read "bert3", "bert2x192" or "static".

        Raises:
            ExportError: the name is none of these.
        """
        if name == STATIC:
            return cls(0)
        found = _NAME.fullmatch(name)
        if found is None:
            raise ExportError(f"{name!r} is no student: use bert<layers>, bert<layers>x<width> or static")
        return cls(int(found[1]), int(found[2] or 0))

    @property
    def name(self) -> str:
        """As `parse` reads it."""
        if not self.layers:
            return STATIC
        return f"bert{self.layers}x{self.width}" if self.width else f"bert{self.layers}"


@dataclass(frozen=True, slots=True)
class Record:
    """student.json: the student's shape, the teacher's layers that it started from, and its loss by epoch.

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


def ladder(names: Sequence[str], layers: int, hidden: int) -> list[Rung]:
    """The rungs that a teacher of this size has: none deeper than it, none twice, none narrowed to its own width.

    Raises:
        ExportError: a name is no student, one is deeper than one before it, from which it would have to start, or all
            are too wide.
    """
    rungs = [Rung.parse(name) for name in names]
    fitting = [replace(rung, layers=min(rung.layers, layers)) for rung in rungs if rung.width < hidden]
    depths = [rung.layers for rung in fitting if rung.layers]
    if depths != sorted(depths, reverse=True):
        raise ExportError("--ladder: name the students from deep to shallow: each starts from those before it")
    if not fitting:
        raise ExportError(f"--ladder: {', '.join(names)} is not narrower than the teacher's {hidden}: name another")
    return list(dict.fromkeys(fitting))


def spread(have: int, keep: int) -> list[int]:
    """`keep` of `have` layers, first and last among them: 3 of 6 are 0, 2, 5."""
    keep = min(keep, have)
    return [0] if keep == 1 else [n * (have - 1) // (keep - 1) for n in range(keep)]


def drop_layers(deeper: TextEncoder, keep: list[int]) -> TextEncoder:
    """A copy of an encoder with only the given layers."""
    student = copy.deepcopy(deeper)
    student.trunk.encoder.layer = nn.ModuleList([student.trunk.encoder.layer[n] for n in keep])
    student.trunk.config.num_hidden_layers = len(keep)
    return student.eval()  # no dropout: the target is a fixed function


def save_student(student: TextEncoder | StaticEncoder, record: Record, folder: Path) -> None:
    """Write student.safetensors, student.json and, of a BERT, its config.json."""
    folder.mkdir()
    save_file({k: v.contiguous() for k, v in student.state_dict().items()}, folder / _WEIGHTS)
    (folder / _RECORD).write_text(json.dumps(asdict(record), indent=1))
    if isinstance(student, TextEncoder):
        student.trunk.config.save_pretrained(folder)


def load_one(folder: Path) -> TextEncoder | StaticEncoder:
    """Read what `save_student` wrote."""
    record, weights = Record(**json.loads((folder / _RECORD).read_text())), load_file(folder / _WEIGHTS)
    student: TextEncoder | StaticEncoder
    if record.kind == STATIC:
        words = len(weights["table.weight"]) - record.pairs
        student = StaticEncoder(words, record.pairs, record.dimensions, record.sentence_dimensions)
    else:
        config = BertConfig.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
        trunk = BertModel(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]
        student = TextEncoder(trunk, record.dimensions, record.sentence_dimensions)
    student.load_state_dict(weights)
    return student.eval()
