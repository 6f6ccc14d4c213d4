"""The served model compared with the measured one: how similar the results are, and whether training again worked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from swiftrec.export.data.dataset import DatasetItem
from swiftrec.export.data.split import Cases
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.metrics import RankedCases, mean_interval, overlap, rank
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.schema.final import HeldOut
from swiftrec.server.arrays import Mask

_SAMPLE = 32  # requests whose results the packaged bundle must repeat


def likeness(measured: EvaluatedRecommender, served: EvaluatedRecommender, cases: Cases) -> float:
    """Share of the top ten that both have in common, averaged over cases with histories as ids."""
    return overlap(_ranked(measured, cases), _ranked(served, cases))


def require_learned(
    measured: EvaluatedRecommender, served: EvaluatedRecommender, cases: Cases, is_known: Mask, seed: int
) -> HeldOut:
    """Compare both rankers, without the other parts, on events that only the served one was trained on.

    Args:
        measured: the model whose metrics are reported.
        served: the one that was trained again.
        cases: the test of the measured one.
        is_known: items with events in the training of the measured one, bool [items]; only these are ranked. The
            others have raised vectors there, which fill a list unless the weights of the other parts hold them down.
        seed: of the intervals.

    Raises:
        GateError: the served one is worse by more than chance, so its training went wrong.
    """
    before, after = (_ranked(replace(model, retrieval=None), cases, is_known).ndcg for model in (measured, served))
    held_out = HeldOut(
        measured=mean_interval(before, seed),
        served=mean_interval(after, seed),
        difference=mean_interval(after - before, seed),
        cases=len(cases.targets),
    )
    if held_out.difference.high < 0:
        raise GateError(
            "the ranker that was trained again on all events finds the test's items worse than the measured one, "
            f"although it was trained on them (NDCG@10 {held_out.served} and {held_out.measured}, difference "
            f"{held_out.difference} over the same {held_out.cases} cases): use a lower --learning-rate or another "
            "--seed"
        )
    return held_out


def expected_answers(
    served: EvaluatedRecommender, histories: Cases, texts: Sequence[str], items: Sequence[DatasetItem]
) -> list[dict[str, list[str]]]:
    """The results that the packaged bundle must return for the first histories, given as texts.

    Args:
        served: the default variant, the ranker and everything else as packaged.
        histories: positions in `texts`; the targets are not read.
        texts: e.g. the titles of the items.
        items: the catalogue.
    """
    cases = histories.take(np.arange(min(_SAMPLE, len(histories.histories))))
    requests, seen = served.of_texts(cases, texts)
    ranked = rank(served.scores({"text": requests})["text"], seen, len(items))
    return [
        {"texts": [texts[n] for n in history.tolist()], "top": [items[n].id for n in top.tolist()]}
        for history, top in zip(cases.histories, ranked.lists, strict=True)
    ]


def _ranked(recommender: EvaluatedRecommender, cases: Cases, is_ranked: Mask | None = None) -> RankedCases:
    """Results for histories as ids, among all items or those of `is_ranked` [items]."""
    score = recommender.scores({"ids": recommender.of_histories(cases.histories)})["ids"]
    shown = np.ones(len(recommender.items), dtype=bool) if is_ranked is None else is_ranked
    return rank(lambda part: np.where(shown, score(part), np.float32(-np.inf)), cases, len(recommender.items))
