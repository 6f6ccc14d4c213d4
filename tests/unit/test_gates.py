"""The gates: what loses quality is refused, with the gate, the value and the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from export.config import ExportSettings
from export.evaluate.metrics import Figure, figure, ndcg, top
from export.evaluate.verify import failures, passing
from export.stage import Job

_TEACHER = {"ids": Figure(0.1, 0.1, 0.1), "text": Figure(0.1, 0.1, 0.1), "query": Figure(1.0, 1.0, 1.0)}


def variant(text: float, query: float = 1.0) -> dict[str, Figure]:
    return _TEACHER | {"text": Figure(text, text, text), "query": Figure(query, query, query)}


@pytest.fixture
def job() -> Job:
    return Job(ExportSettings(_cli_parse_args=[]))


def test_variant_within_the_gates_passes(job: Job) -> None:
    assert failures(job, _TEACHER, variant(0.096), 1e-6) == []


@pytest.mark.parametrize(
    ("text", "query", "parity", "words"),
    [
        (0.094, 1.0, 1e-6, "text keeps 0.940 of the teacher's, at least 0.950"),
        (0.1, 0.9, 1e-6, "query keeps 0.900"),
        (0.1, 1.0, 2e-4, "parity with PyTorch 2.0e-04, at most 1e-04"),
    ],
)
def test_lossy_variant_is_refused_with_figures(job: Job, text: float, query: float, parity: float, words: str) -> None:
    (sentence,) = failures(job, _TEACHER, variant(text, query), parity)
    assert words in sentence


def test_int8_that_loses_against_fp32_is_dropped(job: Job) -> None:
    results = {"teacher": _TEACHER, "fp32": variant(0.1), "int8": variant(0.097)}
    assert passing(job, results, 1e-6, ["fp32", "int8"]) == ["fp32"]
    results["int8"] = variant(0.0995)
    assert passing(job, results, 1e-6, ["fp32", "int8"]) == ["fp32", "int8"]


def test_ndcg_masks_seen_items_and_breaks_ties_by_position() -> None:
    scores = np.array([5, 3, 3, 1], dtype=np.float32)
    seen = np.array([0])
    assert ndcg(scores, seen, 1) == 1.0
    assert ndcg(scores, seen, 2) == pytest.approx(1 / np.log2(3))
    assert top(scores, seen) == [1, 2, 3, 0]


def test_interval_holds_the_mean() -> None:
    result = figure(np.random.default_rng(0).random(200), seed=1)
    assert result.low < result.mean < result.high
