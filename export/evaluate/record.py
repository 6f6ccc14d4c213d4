"""`quality.json`, and the same in the manifest: everything that stage `verify` found out, as it is written and read."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from swiftrec.export.blend.record import BlendRecord
from swiftrec.export.data.order import BY_TIME, Order
from swiftrec.export.data.repeats import EXCLUDE, Repeats
from swiftrec.export.evaluate.baselines import TRANSITIONS
from swiftrec.export.evaluate.beyond_accuracy import Exposure
from swiftrec.export.evaluate.final_record import FinalRecord
from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.models_record import Model, Pieces, RankerRecord, TeacherRecord, VariantRecord
from swiftrec.export.evaluate.selection import Default
from swiftrec.export.gates import Outcome

RECORD = "quality.json"
TEACHER = "teacher"
FROZEN, FROZEN_POPULAR = "frozen encoder", "frozen encoder + popularity"
RANKER_ALONE, TEXT_ALONE = "ranker alone", "text match alone"  # parts of the teacher's score
NAMED = (("ids", TRANSITIONS), ("tags", FROZEN_POPULAR))
"""Task and yardstick: pairs that are compared whether or not the yardstick is the best of the task."""
COMPARED = "compared.json"


class Lists(Model):
    """The lists of one subject on one task: what NDCG does not say."""

    task: str
    recall: Figure
    mrr: Figure
    exposure: Exposure


class Group(Model):
    """NDCG@10 of the users of one group."""

    attribute: str
    group: str
    cases: int
    ndcg: Figure


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
    """`compared.json`: what `swiftrec export teacher` found.

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


class Quality(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    rankers: list[RankerRecord] = []  # one; an older export wrote none without interactions, or two
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
    def default_on_cpu(self) -> VariantRecord:
        """The variant that a CPU runs if nobody says."""
        return next(v for v in self.variants if v.variant.name == self.default["cpu"].name)

    def devices_of(self, name: str) -> list[str]:
        """The devices whose default is that variant."""
        return [device for device, default in self.default.items() if default.name == name]
