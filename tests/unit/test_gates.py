"""The gates: what loses quality is refused, with the gate, the value and the threshold."""

from __future__ import annotations

import numpy as np
import pytest

from export import gates
from export.config import ExportSettings
from export.errors import GateError
from export.evaluate.metrics import Figure, figure, ndcg, top
from export.evaluate.verify import failures, passing
from export.stage import Job

_TEACHER = {"ids": Figure(0.1, 0.1, 0.1), "text": Figure(0.1, 0.1, 0.1), "query": Figure(1.0, 1.0, 1.0)}


def variant(text: float, query: float = 1.0) -> dict[str, Figure]:
    return _TEACHER | {"text": Figure(text, text, text), "query": Figure(query, query, query)}


@pytest.fixture
def job() -> Job:
    return Job(ExportSettings(_cli_parse_args=[]))


_FUSED = {"EmbedLayerNormalization": 1, "Attention": 3, "SkipLayerNormalization": 6, "BiasGelu": 3}


def test_fused_graph_passes() -> None:
    gates.require("bert3", gates.fusion(_FUSED, 3))


@pytest.mark.parametrize("operator", list(_FUSED))
def test_unfused_graph_is_refused_by_operator(operator: str) -> None:
    with pytest.raises(GateError, match=rf"bert3: fusion: .*{operator}.* 0, needs {_FUSED[operator]}"):
        gates.require("bert3", gates.fusion(_FUSED | {operator: 0}, 3))


def test_fusion_that_also_found_what_is_not_there_is_refused() -> None:
    assert gates.fusion(_FUSED | {"Attention": 4}, 3)


def test_static_graph_has_one_table_and_one_product() -> None:
    assert gates.static_fusion({"Gather": 1, "MatMul": 1}) == []
    assert gates.static_fusion({"Gather": 2, "MatMul": 1})
    assert gates.static_fusion({"Gather": 0, "MatMul": 1})
    assert gates.static_fusion({"Gather": 1, "MatMul": 3})


def test_smaller_precision_within_the_gates_passes() -> None:
    assert gates.smaller_precision(cosine=0.9995, size=0.3, speedup=2.5) == []
    assert gates.smaller_precision(cosine=0.9995, size=0.5, speedup=None) == []
    assert gates.smaller_precision(cosine=0.9995, size=0.3, speedup=0.97, is_static=True) == []


@pytest.mark.parametrize(
    ("cosine", "size", "speedup", "words"),
    [
        (0.99, 0.3, 2.0, "cosine to fp32 0.99, at least 0.998"),
        (float("nan"), 0.3, 2.0, "cosine to fp32 nan, at least 0.998"),
        (0.9999, 0.7, 2.0, "size against fp32 0.7, at most 0.6"),
        (0.9999, 0.3, 1.0, "speed against fp32 1, at least 1.05"),
    ],
)
def test_lossy_precision_is_refused_with_value_and_threshold(
    cosine: float, size: float, speedup: float, words: str
) -> None:
    failed = gates.smaller_precision(cosine, size, speedup)
    assert gates.verdict(failed, allow_lossy=False) == (words, "")


def test_static_student_may_not_get_much_slower() -> None:
    assert "speed" in str(*gates.smaller_precision(cosine=0.9995, size=0.3, speedup=0.8, is_static=True))


def test_allow_lossy_records_the_exception_instead() -> None:
    failed = gates.smaller_precision(cosine=0.99, size=0.3, speedup=2.0)
    assert gates.verdict(failed, allow_lossy=True) == ("", "cosine to fp32 0.99, at least 0.998")


def test_allow_lossy_never_excuses_a_wrong_graph() -> None:
    failed = gates.at_most("batch invariance", 3e-3, gates.GATES.max_invariance)
    assert gates.verdict(failed, allow_lossy=True) == ("batch invariance 0.003, at most 0.0001", "")


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
