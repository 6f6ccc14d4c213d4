"""`quality.json`, and the same in the manifest: everything that stage `verify` found out, as it is written and read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from export.blend.record import BlendRecord
from export.data.order import BY_TIME, Order
from export.data.repeats import EXCLUDE, Repeats
from export.evaluate.baselines import TRANSITIONS
from export.evaluate.choose import Default, Judged
from export.evaluate.exposure import Exposure
from export.evaluate.metrics import Figure
from export.final.record import FinalRecord
from export.gates import Outcome
from export.quality import Check
from export.variants import Variant

RECORD = "quality.json"
TEACHER = "teacher"
FROZEN, FROZEN_POPULAR = "frozen encoder", "frozen encoder + popularity"
RANKER_ALONE, TEXT_ALONE = "ranker alone", "text match alone"  # parts of the teacher's score
NAMED = (("ids", TRANSITIONS), ("tags", FROZEN_POPULAR))
"""Task and yardstick: pairs that are compared whether or not the yardstick is the best of the task."""
COMPARED = "compared.json"


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


class Lists(Model):
    """The lists of one subject on one task: what NDCG does not say."""

    task: str
    recall: Figure
    mrr: Figure
    exposure: Exposure


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


class Group(Model):
    """NDCG@10 of the users of one group."""

    attribute: str
    group: str
    cases: int
    ndcg: Figure


class TeacherRecord(Model):
    """The teacher: its size, and its speed in PyTorch (eager, fp32, padded to the longest of the batch, one thread).

    `unmeasured` are gates for which there are too few cases or no untouched encoder to compare with; `exception` is
    what --allow-lossy excused.
    """

    layers: int
    hidden: int
    megabytes: float
    texts_per_s_core: float
    gates: list[Gate] = []
    unmeasured: list[str] = []
    exception: str = ""


class Pieces(Model):
    """Word pieces that the students know, `of` those that the checkpoint knows."""

    kept: int
    of: int

    def __str__(self) -> str:
        return f"{self.kept:,} of the checkpoint's {self.of:,} word pieces"


class RankerRecord(Model):
    """A ranker: its graph in stage `onnx`, size and speed (`export.compress.rankers`), and whether it is shipped.

    `retained` is a small one's NDCG@10 behind the teacher's vectors, as a share of the teacher's; `why` its gates in
    words. `gates` has the parity of its graph first, then those of a small one's answers and speed.
    """

    name: str
    file: str
    megabytes: float
    parity: float
    ms_batch1: float
    users_per_s_core: float
    retained: dict[str, Figure]
    shipped: bool
    why: str
    gates: tuple[Outcome, ...] = ()

    def __str__(self) -> str:
        kept = "".join(f", keeps of the teacher's {task} {figure}" for task, figure in self.retained.items())
        speed = f"{self.ms_batch1:.3f} ms a user with a full history, {self.users_per_s_core:,.0f} users/s in batches"
        state = "serves" if self.shipped else "does not serve"
        words = [f"{self.megabytes:.2f} MB", *map(str, self.gates[:1]), speed]
        return f"{self.name}.onnx {state}: {', '.join(words)}{kept}{self.why and '; ' + self.why}"


class OtherProtocol(Model):
    """The baselines under the protocol that training was not split by, NDCG@10 on ids; or why there is none."""

    protocol: str
    cases: int
    ndcg: dict[str, Figure]
    remark: str


class ColdPair(Model):
    """What a subject finds of items that training never saw, and beside it of known ones.

    `cold` and `ids` are NDCG@10 where the new items have `share` of the lists of *ids*, nearly the same for all
    subjects (`export.evaluate.cold`). `own_share`, `own_cold` and `own_ids` are the same as the subject ranks.
    """

    share: float
    cold: Figure
    ids: Figure
    own_share: float
    own_cold: Figure
    own_ids: Figure

    def __str__(self) -> str:
        return (
            f"cold {self.cold} and ids {self.ids} with new items in {self.share:.2%} of the lists; as it ranks, cold "
            f"{self.own_cold} and ids {self.own_ids} with {self.own_share:.2%}"
        )


class Comparison(Model):
    """A recommender beside the best yardstick of one task: means of NDCG@10 and of their difference, case by case.

    `group` names the users of the cases, all if it is empty; `is_level` where both show the same share of new items.
    """

    task: str
    subject: str
    own: float
    baseline: str
    other: float
    difference: Figure
    cases: int
    group: str = ""
    is_level: bool = False

    @property
    def loses(self) -> bool:
        """Whether the whole interval of the difference is below 0."""
        return self.difference.high < 0

    @property
    def is_above(self) -> bool:
        """Whether the mean is higher; the interval may reach 0."""
        return self.difference.mean > 0

    def __str__(self) -> str:
        verdict = "is above" if self.is_above else "loses to" if self.loses else "is not above"
        where = " at the same share of new items" * self.is_level + (self.group and f", {self.group}")
        figures = f"NDCG@10 {self.own:.4f} and {self.other:.4f}, difference {self.difference}"
        return (
            f"{self.task}{where}: {self.subject} {verdict} {self.baseline} ({figures} over the same {self.cases} cases)"
        )


class Compared(Model):
    """`compared.json`: what `python -m export teacher` found.

    `tasks` is NDCG@10 and `shares` what `Quality.shares` has, by subject; `cases` counts the cases of *ids*.
    `comparisons` are of the teacher with the best yardstick of each task, `named_comparisons` as those of `Quality`,
    and `lead` is with the best baseline on *ids*, which no part of the teacher's score is.
    """

    protocol: Literal["leave-one-out", "time"]
    cases: int
    tasks: dict[str, dict[str, Figure]]
    shares: dict[str, dict[str, dict[str, Figure]]]
    absent: dict[str, str]
    comparisons: list[Comparison]
    named_comparisons: list[Comparison]
    lead: Comparison
    cold_pairs: dict[str, ColdPair]
    cold_share: float


class Quality(Model):
    """Everything. `tasks`, `lists`, `groups` and `shares` go by subject: baselines, "teacher", and the variants' names.

    `cases` counts the cases by task, with "warm" for those that want an item which training saw behind a history.
    `shares` has what `export.evaluate.tasks.SHARES` names of some tasks; `absent` says of each task that the data set
    cannot have why.

    Protocol "agreement" has none of these: without interactions a variant is compared with the checkpoint as its own
    library runs it. `comparisons` are of the CPU's default variant, one for each task; `named_comparisons` of the same
    with one named yardstick each, whether it is the task's best or not (`NAMED`, and the frozen encoder on *cold*);
    `group_comparisons` of the same with popularity, one for each task and group of users. `cold_pairs` go by subject,
    `cold_share` is what the lists of all of them are brought to. `packaged` is what stage `package` found of the whole
    bundle, and `final` how the served model was trained after the measured one: the manifest has them, `quality.json`
    not yet.
    """

    protocol: Literal["leave-one-out", "time", "agreement"]
    cases: dict[str, int]
    cold_items: int
    tasks: dict[str, dict[str, Figure]]
    probes: dict[str, Figure]
    lists: dict[str, Lists]
    wanted_by_popularity: list[float]
    groups: dict[str, list[Group]]
    other: OtherProtocol
    teacher: TeacherRecord
    variants: list[VariantRecord]
    default: dict[str, Default]
    curve: list[dict[str, float | None]]
    machine: str
    pieces: Pieces | None = None
    curves: dict[str, list[dict[str, float | None]]] = {}  # what else was trained, by name; rows as in `curve`
    rankers: list[RankerRecord] = []  # an older export wrote none without interactions: the teacher's serves
    packaged: Outcome | None = None
    final: FinalRecord | None = None  # an older export served the measured model
    comparisons: list[Comparison] = []  # an older export wrote none
    named_comparisons: list[Comparison] = []
    repeats: Repeats = EXCLUDE
    shares: dict[str, dict[str, dict[str, Figure]]] = {}  # an older export wrote none, and no `absent`
    absent: dict[str, str] = {}
    group_comparisons: list[Comparison] = []
    cold_pairs: dict[str, ColdPair] = {}
    cold_share: float = 0.0
    blend: BlendRecord = BlendRecord()
    order: Order = BY_TIME

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task on which the default is not above every yardstick, and each group that loses."""
        tasks = [f"{comparison}." for comparison in self.comparisons if not comparison.is_above]
        return tasks + [f"{comparison}." for comparison in self.group_comparisons if comparison.loses]

    @property
    def shipped(self) -> list[VariantRecord]:
        """The variants in the bundle."""
        return [v for v in self.variants if v.shipped]

    @property
    def ranker(self) -> str:
        """File of the ranker that is shipped."""
        return next((ranker.file for ranker in self.rankers if ranker.shipped), "ranker.onnx")

    @property
    def default_on_cpu(self) -> VariantRecord:
        """The variant that a CPU runs if nobody says."""
        return next(v for v in self.variants if v.variant.name == self.default["cpu"].name)

    def devices_of(self, name: str) -> list[str]:
        """The devices whose default is that variant."""
        return [device for device, default in self.default.items() if default.name == name]
