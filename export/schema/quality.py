"""`quality.json`, and the same in the manifest: everything that was measured of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator

from swiftrec.export.gates import Gate
from swiftrec.export.schema.blend import BlendRecord
from swiftrec.export.schema.comparison import ColdPair, Comparison, OtherProtocol
from swiftrec.export.schema.final import FinalRecord
from swiftrec.export.schema.models import RankerRecord, TeacherRecord, VocabularySize
from swiftrec.export.schema.record import Exposure, MeanInterval, Record
from swiftrec.export.schema.variant import Variant

QUALITY_FILE = "quality.json"
TEACHER = "teacher"
FROZEN, FROZEN_POPULAR = "frozen encoder", "frozen encoder + popularity"
RANKER_ALONE, TEXT_ALONE = "ranker alone", "text match alone"  # parts of the teacher's score

TrainingCurve = list[dict[str, float | None]]
"""One row an epoch: "epoch", "loss", and "validation_ndcg" if it was measured."""


class Lists(Record):
    """What NDCG does not say about one recommender's lists on one task."""

    task: str
    recall: MeanInterval
    mrr: MeanInterval
    exposure: Exposure


class UserGroup(Record):
    """NDCG@10 of the users of one group."""

    attribute: str
    group: str
    cases: int
    ndcg: MeanInterval


@dataclass(frozen=True, slots=True)
class Default:
    """The variant that a device runs unless another one is given, and the reason in one sentence."""

    name: str
    why: str


class Example(Record):
    """A request, and the titles of the best ten items of the packaged bundle and of the untrained encoder.

    `history` are titles, oldest first; `query` is empty if the request has none. `untrained` is empty if the catalogue
    is too large to be encoded by the untrained encoder.
    """

    history: list[str]
    query: str
    items: list[str]
    untrained: list[str]


class Quality(Record):
    """Everything that was measured. `tasks`, `lists`, `groups` and `shares` go by recommender.

    A recommender is a baseline, "teacher", or a variant's name. With protocol "agreement" (no interactions) these are
    empty, and each variant is compared with the checkpoint as its own library runs it.

    Args:
        protocol: how the interactions were split.
        cases: task -> number of cases; "warm" are those with a history whose target training has seen.
        cold_items: number of items whose interactions were kept from training.
        tasks: recommender -> task -> NDCG@10.
        probes: recommender -> share of the top ten that carries the attribute which a phrase names.
        lists: recommender -> what else is known of its lists.
        targets_by_popularity: share of the targets in each tenth of the catalogue, the most popular tenth first.
        groups: "recommender (task)" -> NDCG@10 of each group of users.
        other: the baselines under the other protocol.
        teacher: size, speed and gates of the teacher.
        variants: every variant, those that are not shipped included.
        default: device -> the variant that it runs unless another one is given.
        curve: the learning curve of the teacher's head.
        machine: where everything was measured.
        pieces: size of the students' vocabulary.
        curves: the other learning curves, by name.
        rankers: the ranker; an older export wrote none without interactions, or two.
        packaged: the gate of the finished bundle; only in the manifest.
        final: how the served model was trained after the measured one; only in the manifest.
        comparisons: the CPU's default variant and the best yardstick of each task.
        named_comparisons: the same with fixed yardsticks (`export.evaluate.comparisons.NAMED`).
        repeats: whether items of the history may be recommended again.
        shares: recommender -> task -> name -> share, as in `export.evaluate.tasks.SHARES`.
        absent: task -> why the data set cannot have it.
        group_comparisons: the CPU's default variant and popularity, one for each task and group of users.
        cold_pairs: recommender -> results on *cold* and *ids* at a common share of new items.
        cold_share: that share.
        blend: the weights of a score's parts.
        order: by what a user's interactions are ordered.
        examples: requests and their results; only in the manifest.
    """

    protocol: Literal["leave-one-out", "time", "agreement"]
    cases: dict[str, int]
    cold_items: int
    tasks: dict[str, dict[str, MeanInterval]]
    probes: dict[str, MeanInterval]
    lists: dict[str, Lists]
    targets_by_popularity: list[float]
    groups: dict[str, list[UserGroup]]
    other: OtherProtocol
    teacher: TeacherRecord
    variants: list[Variant]
    default: dict[str, Default]
    curve: TrainingCurve
    machine: str
    # Exports before each of these fields was added wrote none.
    pieces: VocabularySize | None = None
    curves: dict[str, TrainingCurve] = {}
    rankers: list[RankerRecord] = []
    packaged: Gate | None = None
    final: FinalRecord | None = None
    comparisons: list[Comparison] = []
    named_comparisons: list[Comparison] = []
    repeats: Literal["exclude", "allow"] = "exclude"
    shares: dict[str, dict[str, dict[str, MeanInterval]]] = {}
    absent: dict[str, str] = {}
    group_comparisons: list[Comparison] = []
    cold_pairs: dict[str, ColdPair] = {}
    cold_share: float = 0.0
    blend: BlendRecord = BlendRecord()
    order: Literal["time", "file", "none"] = "time"
    examples: list[Example] = []

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, row: Any) -> Any:  # noqa: ANN401 (not validated yet)
        """Read the records of older exports, which had another name for `targets_by_popularity`."""
        old = "wanted_by_popularity"
        if not isinstance(row, dict) or old not in row:
            return row
        return {"targets_by_popularity" if name == old else name: value for name, value in row.items()}

    @property
    def warnings(self) -> list[str]:
        """A sentence for each task on which the default is not above every yardstick, and each group that loses."""
        tasks = [f"{comparison}." for comparison in self.comparisons if not comparison.is_above]
        return tasks + [f"{comparison}." for comparison in self.group_comparisons if comparison.loses]

    @property
    def shipped(self) -> list[Variant]:
        """The variants in the bundle."""
        return [variant for variant in self.variants if variant.shipped]

    @property
    def default_on_cpu(self) -> Variant:
        """The variant that a CPU runs unless another one is given."""
        return next(variant for variant in self.variants if variant.name == self.default["cpu"].name)

    def devices_of(self, name: str) -> list[str]:
        """The devices whose default is that variant."""
        return [device for device, default in self.default.items() if default.name == name]
