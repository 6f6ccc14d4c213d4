"""What `quality.json` has of each model: variants, the ranker and the teacher, with their gates."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict

from swiftrec.export.compress.ranker_graphs import RankerGraph
from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.selection import Judged
from swiftrec.export.gates import Outcome, ranker_parity
from swiftrec.export.quality import Check
from swiftrec.export.variants import Variant


class Model(BaseModel):
    """Written and read without loss; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(Model):
    """One gate as it was measured; a quality gate is passed by what is at least the threshold."""

    gate: str
    value: float
    threshold: float
    passed: bool

    @classmethod
    def of(cls, check: Check) -> Gate:
        """As it was judged."""
        return cls(gate=check.gate, value=check.value, threshold=check.threshold, passed=check.has_passed)


class VariantRecord(Model):
    """A variant: what it is, what it kept, and whether it is shipped.

    `retained` is its NDCG@10 as a share of the teacher's, with the interval of the share over the same cases. `gates`
    are those of its answers, those of its graph are in `variant`; `unmeasured` are gates without a value, since what
    they are a share of is 0.
    `measured_on` is the device that gave its answers: the CPU for a GPU's variant where there was no GPU. `agreement`
    is "cosine" and "overlap" with the checkpoint as its own library runs it, over texts, if there are no interactions.
    """

    variant: Variant
    retained: dict[str, Figure]
    overlap: float | None
    gates: list[Gate]
    shipped: bool
    on_front: bool
    refused: str
    unmeasured: list[str] = []
    measured_on: str = ""
    agreement: dict[str, Figure] = {}

    @classmethod
    def of(
        cls,
        judged: Judged,
        retained: dict[str, Figure],
        *,
        on_front: bool,
        agreement: dict[str, Figure] | None = None,
    ) -> VariantRecord:
        """Put together what `verify` knows."""
        return cls(
            variant=judged.variant,
            retained=retained,
            overlap=judged.kept.get("overlap"),
            gates=[Gate.of(check) for check in judged.checks],
            shipped=judged.is_shipped,
            on_front=on_front,
            refused=judged.refused,
            unmeasured=list(judged.unmeasured),
            measured_on=judged.measured_on,
            agreement=agreement or {},
        )

    @property
    def trouble(self) -> str:
        """Every gate that it failed, excused or not; empty if none."""
        return "; ".join(filter(None, (self.refused, self.variant.exception)))

    @property
    def remark(self) -> str:
        """Gates that say nothing about it, and what was measured elsewhere than it will run; empty if neither."""
        words = []
        if self.unmeasured:
            words = [f"not measured, since nothing wanted was among the ten best: {', '.join(self.unmeasured)}"]
        if self.measured_on not in ("", self.variant.device):
            words.append(f"quality measured on {self.measured_on}")
        if not self.variant.texts_per_s_core and self.shipped:
            words.append(f"speed on {self.variant.device} not measured")
        return "; ".join(words)

    @property
    def state(self) -> str:
        """Whether it is in the bundle though something is wrong with it, in words."""
        return "shipped all the same (--allow-lossy)" if self.shipped else "not shipped"


class TeacherRecord(Model):
    """The teacher: its size, and its speed in PyTorch (eager, fp32, padded to the longest of the batch, one thread).

    `unmeasured` are gates without a value, and `why_unmeasured` says why; `exception` is what --allow-lossy excused.
    """

    layers: int
    hidden: int
    megabytes: float
    texts_per_s_core: float
    gates: list[Gate] = []
    unmeasured: list[str] = []
    why_unmeasured: str = ""  # an older export wrote none
    exception: str = ""

    @property
    def remark(self) -> str:
        """The gates that could not be measured, and why; empty if all were."""
        return f"not measured: {', '.join(self.unmeasured)} ({self.why_unmeasured})" if self.unmeasured else ""


class Pieces(Model):
    """Word pieces that the students know, `of` those that the checkpoint knows."""

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept:,} of the checkpoint's {self.of:,} word pieces"


class RankerRecord(Model):
    """The ranker: size and speed of its graph (`export.compress.ranker_graphs`), and the gate of its parity."""

    # An older export also wrote what a second, smaller ranker kept of this one's quality.
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    file: str
    megabytes: float
    parity: float
    ms_batch1: float
    users_per_s_core: float
    gates: tuple[Outcome, ...] = ()

    @classmethod
    def of(cls, graph: RankerGraph) -> RankerRecord:
        """The record of a graph, with the gate of its parity."""
        return cls(**asdict(graph), file=graph.file, gates=(ranker_parity(graph.parity),))

    def __str__(self) -> str:
        speed = f"{self.ms_batch1:.3f} ms a user with a full history, {self.users_per_s_core:,.0f} users/s in batches"
        return f"{self.file}: {', '.join([f'{self.megabytes:.2f} MB', *map(str, self.gates), speed])}"
