"""The baselines on every task that they can read, and under the other protocol."""

from __future__ import annotations

from export.data.split import COLD_SHARE, Cases, Protocol, split
from export.errors import DataError
from export.evaluate.baselines import WITHOUT_HISTORY, Baseline, fit_baselines, popularity
from export.evaluate.ground import Ground
from export.evaluate.metrics import Ranked, figure, rank
from export.evaluate.record import OtherProtocol
from export.evaluate.tasks import some_cases

FROZEN = "frozen encoder"
ORACLE = "popularity, cold counted"
Answers = dict[str, Ranked]

_DISHONEST = {
    "time": "The teacher is not here: its one training saw events after the cut. `python -m export teacher "
    "--protocol time` trains one of its own.",
    "leave-one-out": "The teacher is not here: before the cut it was trained on some users' last items.",
}


def baselines(ground: Ground) -> dict[str, Answers]:
    """Name -> task -> answers; popularity reads no history, the frozen encoder reads everything.

    `ORACLE` counts the cold items' own events, which no recommender could know: without it popularity would be 0 there.
    """
    tasks, items = ground.tasks, len(ground.dataset.items)
    found: dict[str, Answers] = {}
    for name, score in fit_baselines(ground.split.known, items, ground.split.order).items():
        warm = _rank(score, tasks.warm, items)
        blind = dict.fromkeys(("text", "query", "noisy"), warm) if name in WITHOUT_HISTORY else {}
        found[name] = {"ids": warm} | blind
        if len(tasks.cold.wanted):
            found[name]["cold"] = _rank(score, tasks.cold, items)
    if len(tasks.cold.wanted):
        told = popularity(ground.dataset.histories, items)
        found[ORACLE] = {"cold": _rank(told, tasks.cold, items)}
    if ground.frozen:
        found[FROZEN] = ground.frozen.answers(tasks, ground.frozen.of_items(tasks))
    return found


def other_protocol(ground: Ground, trained_by: Protocol) -> OtherProtocol:
    """The baselines under the protocol that the teacher was not trained for, fitted again on what it allows."""
    name: Protocol = "time" if trained_by == "leave-one-out" else "leave-one-out"
    try:
        share = COLD_SHARE if len(ground.split.cold) else 0.0
        parts = split(ground.dataset, name, cold_share=share, repeats=ground.split.repeats)
    except DataError as error:
        return OtherProtocol(protocol=name, cases=0, ndcg={}, remark=f"Not measured: {error}.")
    items = len(ground.dataset.items)
    cases = some_cases(parts.warm, items, ground.seed)
    ndcg = {
        baseline: figure(_rank(score, cases, items).ndcg, ground.seed)
        for baseline, score in fit_baselines(parts.known, items, parts.order).items()
    }
    return OtherProtocol(protocol=name, cases=len(cases.wanted), ndcg=ndcg, remark=_DISHONEST[name])


def _rank(score: Baseline, cases: Cases, items: int) -> Ranked:
    return rank(lambda part: score(cases.histories[part]), cases, items)
