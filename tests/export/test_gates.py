"""The gates: what loses quality is refused, with the gate, the value and the threshold."""

from __future__ import annotations

import re

import pytest

from swiftrec.export import gates
from swiftrec.export.errors import GateError

_FUSED = {"EmbedLayerNormalization": 1, "Attention": 3, "SkipLayerNormalization": 6, "BiasGelu": 3}


def test_fused_graph_passes() -> None:
    assert not gates.failures(gates.fusion(_FUSED, 3))


@pytest.mark.parametrize("operator", list(_FUSED))
def test_unfused_graph_is_refused_by_operator(operator: str) -> None:
    refused, excused = gates.verdict(gates.fusion(_FUSED | {operator: 0}, 3), allow_lossy=True)
    assert re.fullmatch(rf"fusion: .*{operator}.* 0, needs {_FUSED[operator]}", refused)
    assert not excused


def test_fusion_that_also_found_what_is_not_there_is_refused() -> None:
    assert gates.failures(gates.fusion(_FUSED | {"Attention": 4}, 3))


def test_static_graph_has_one_table_and_one_product() -> None:
    assert not gates.failures(gates.static_fusion({"Gather": 1, "MatMul": 1}))
    for wrong in ({"Gather": 2, "MatMul": 1}, {"Gather": 0, "MatMul": 1}, {"Gather": 1, "MatMul": 3}):
        assert len(gates.failures(gates.static_fusion(wrong))) == 1


def test_smaller_precision_within_the_gates_passes() -> None:
    for found in (
        gates.smaller_precision(cosine=0.9995, size=0.3, speedup=2.5),
        gates.smaller_precision(cosine=0.9995, size=0.5, speedup=None),
        gates.smaller_precision(cosine=0.9995, size=0.3, speedup=0.97, is_static=True),
    ):
        assert not gates.failures(found)


def test_gate_that_was_passed_is_kept_with_value_and_threshold() -> None:
    names = ["cosine to fp32", "size against fp32", "speed against fp32"]
    found = gates.smaller_precision(cosine=0.9995, size=0.3, speedup=2.5)
    assert [(one.gate, one.value, one.threshold, one.passed) for one in found] == [
        (names[0], 0.9995, gates.GATES.min_cosine, True),
        (names[1], 0.3, gates.GATES.max_size, True),
        (names[2], 2.5, gates.GATES.min_speedup, True),
    ]
    assert [one.gate for one in gates.smaller_precision(cosine=0.9995, size=0.5, speedup=None)] == names[:2]


def test_what_there_is_only_one_of_stops_the_export() -> None:
    gates.require("ranker", gates.at_most("parity with PyTorch", 1e-6, 1e-4))
    with pytest.raises(GateError, match=r"ranker: parity with PyTorch 0\.001, at most 0\.0001"):
        gates.require("ranker", gates.at_most("parity with PyTorch", 1e-3, 1e-4))


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
    found = gates.smaller_precision(cosine=0.9995, size=0.3, speedup=0.8, is_static=True)
    assert [failure.gate for failure in gates.failures(found)] == ["speed against fp32"]


def test_allow_lossy_records_the_exception_instead() -> None:
    failed = gates.smaller_precision(cosine=0.99, size=0.3, speedup=2.0)
    assert gates.verdict(failed, allow_lossy=True) == ("", "cosine to fp32 0.99, at least 0.998")


def test_allow_lossy_never_excuses_a_wrong_graph() -> None:
    failed = [gates.at_most("batch invariance", 3e-3, gates.GATES.max_invariance)]
    assert gates.verdict(failed, allow_lossy=True) == ("batch invariance 0.003, at most 0.0001", "")
