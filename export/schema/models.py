"""The records of the teacher, the ranker and the students' vocabulary."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, model_validator

from swiftrec.export.gates import Gate
from swiftrec.export.schema.record import Record


class TeacherRecord(Record):
    """The teacher: its size, and its speed in PyTorch (eager, fp32, padded to the longest of the batch, one thread).

    `unmeasured` are gates without a value, and `why_unmeasured` says why; `exception` is what --allow-lossy excused.
    """

    layers: int
    hidden: int
    megabytes: float
    texts_per_s_core: float
    gates: tuple[Gate, ...] = ()
    unmeasured: tuple[str, ...] = ()
    why_unmeasured: str = ""  # an older export wrote none
    exception: str = ""

    @property
    def remark(self) -> str:
        """The gates that could not be measured, and why; empty if all were."""
        return f"not measured: {', '.join(self.unmeasured)} ({self.why_unmeasured})" if self.unmeasured else ""


class VocabularySize(Record):
    """How many of the checkpoint's `total` word pieces the students keep."""

    kept: int
    total: int

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, row: Any) -> Any:  # noqa: ANN401 (not validated yet)
        """Read the records of older exports, which called the total "of"."""
        return {"kept": row["kept"], "total": row["of"]} if isinstance(row, dict) and "of" in row else row

    def __str__(self) -> str:
        return f"{self.kept:,} of the checkpoint's {self.total:,} word pieces"


class RankerRecord(Record):
    """The ranker's graph: its size, its speed, and how far it is from PyTorch.

    Args:
        name: of its file, without the suffix.
        file: the graph, in the same folder as this record.
        megabytes: size of the graph, 10^6 bytes.
        parity: largest difference of a user vector's entries to PyTorch, as a share of the largest entry.
        ms_batch1: median CPU milliseconds of one user with a full history alone, one thread.
        users_per_s_core: users per second of CPU time in batches, one thread.
        gates: the gate of the parity.
    """

    # An older export also wrote what a second, smaller ranker kept of this one's quality.
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    file: str
    megabytes: float
    parity: float
    ms_batch1: float
    users_per_s_core: float
    gates: tuple[Gate, ...] = ()

    def __str__(self) -> str:
        parity = f"differs from PyTorch by {self.parity:.1e}"
        limits = [f"{gate.threshold:.0e}" for gate in self.gates]
        parity += f" (limit {', '.join(limits)})" if limits else ""
        speed = f"{self.ms_batch1:.3f} ms a user with a full history, {self.users_per_s_core:,.0f} users/s in batches"
        return f"{self.file}: {', '.join([f'{self.megabytes:.2f} MB', parity, speed])}"
