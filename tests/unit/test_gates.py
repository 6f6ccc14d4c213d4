"""The gates: what loses quality is refused, with the gate, the value and the threshold."""

from __future__ import annotations

import pytest

from export import gates
from export.errors import GateError

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
