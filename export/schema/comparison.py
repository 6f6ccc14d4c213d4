"""Records of comparisons, and `compared.json`: the teacher beside everything that it is compared with."""

from __future__ import annotations

from typing import Literal

from swiftrec.export.schema.record import MeanInterval, Record

COMPARED = "compared.json"


class OtherProtocol(Record):
    """NDCG@10 of the baselines on *ids* under the protocol that training did not use; or why there is none."""

    protocol: str
    cases: int
    ndcg: dict[str, MeanInterval]
    remark: str


class ColdPair(Record):
    """How well a recommender finds items that training never saw, and how well known ones.

    `cold` and `ids` are NDCG@10 with new items in `share` of the lists of *ids*, nearly the same for all recommenders
    (`export.evaluate.cold`). `own_share`, `own_cold` and `own_ids` are without that adjustment.
    """

    share: float
    cold: MeanInterval
    ids: MeanInterval
    own_share: float
    own_cold: MeanInterval
    own_ids: MeanInterval

    def __str__(self) -> str:
        return (
            f"cold {self.cold} and ids {self.ids} with new items in {self.share:.2%} of the lists; unadjusted, cold "
            f"{self.own_cold} and ids {self.own_ids} with {self.own_share:.2%}"
        )


class Comparison(Record):
    """A recommender and a yardstick on one task: means of NDCG@10, and of the difference case by case.

    `group` names the users of the cases, all users if it is empty; `is_level` if both show the same share of new items.
    """

    task: str
    subject: str
    own: float
    baseline: str
    other: float
    difference: MeanInterval
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


class TeacherComparison(Record):
    """`compared.json`: what `swiftrec export teacher` measured.

    `tasks` is NDCG@10, and `shares` as in `Quality`, by recommender; `cases` counts the cases of *ids*. `comparisons`
    are of the teacher and the best yardstick of each task, `named_comparisons` as in `Quality`, and `lead` is of the
    teacher and the best baseline on *ids*; parts of the teacher's own score do not count as baselines.
    """

    protocol: Literal["leave-one-out", "time"]
    cases: int
    tasks: dict[str, dict[str, MeanInterval]]
    shares: dict[str, dict[str, dict[str, MeanInterval]]]
    absent: dict[str, str]
    comparisons: list[Comparison]
    named_comparisons: list[Comparison]
    lead: Comparison
    cold_pairs: dict[str, ColdPair]
    cold_share: float
