"""The gates: what is refused or excused, with gate, value and threshold; and which variant is the default."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.export import gates
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.selection import defaults, judge, pareto
from swiftrec.export.gates import EVERY_TASK, QUALITY, QualityThresholds, threshold_of
from swiftrec.export.schema.variant import Variant

_GOOD = {"text": 1.0, "query": 1.0, "noisy": 1.0, "another task": 1.0, "overlap": 0.9}


def variant(name: str, speed: float, *, megabytes: float = 50.0, device: str = "cpu", refused: str = "") -> Variant:
    student, _, precision = name.rpartition("-")
    return Variant(
        name=name,
        student=student,
        precision=precision,
        device=device,
        file=f"encoder.{name}.onnx",
        layers=3,
        hidden=384,
        megabytes=megabytes,
        texts_per_s_core=speed,
        refused=refused,
    )


def judged(name: str, speed: float, *, megabytes: float = 50.0, **kept: float) -> Variant:
    return judge(variant(name, speed, megabytes=megabytes), _GOOD | kept, allow_lossy=False)


def test_variant_within_the_gates_is_shipped() -> None:
    assert judged("bert3-fp32", 800, text=0.90).shipped


@pytest.mark.parametrize("gate", [*_GOOD, "cosine"])
def test_lossy_variant_is_not_shipped_and_reports_its_loss(gate: str) -> None:
    lossy = judged("static-fp32", 9_000, **{gate: 0.4})
    assert not lossy.shipped
    threshold = threshold_of(QUALITY.shipped, gate)
    assert lossy.refused == f"{gate} 0.4, at least {threshold:.3g}"


def test_every_gate_can_fail_for_an_encoder() -> None:
    assert set(QUALITY.shipped) == set(QUALITY.default) == {EVERY_TASK, "overlap", "cosine"}
    assert QUALITY.shipped[EVERY_TASK] == 0.90
    assert QUALITY.default[EVERY_TASK] == 0.98


@pytest.mark.parametrize("task", ["text", "query", "noisy", "another task"])
def test_default_keeps_more_of_the_teacher_on_every_task_than_what_is_shipped(task: str) -> None:
    weak = judged("static-int8", 9_000, **{task: 0.97})
    assert weak.shipped
    assert defaults([weak, judged("bert3-fp32", 800)])["cpu"].name == "bert3-fp32"
    static = judged("static-int8", 9_000, **{task: 0.98})
    assert defaults([static, judged("bert3-fp32", 800)])["cpu"].name == "static-int8"
    assert not judged("static-int8", 9_000, **{task: 0.89}).shipped


def test_gate_of_a_named_task_overrides_that_of_every_task() -> None:
    gates = QualityThresholds(shipped={EVERY_TASK: 0.98, "cold": 0.80}, default={}).judge({"ids": 0.97, "cold": 0.81})
    assert [(gate.gate, gate.passed) for gate in gates] == [("ids", False), ("cold", True)]


def test_unmeasured_gate_neither_passes_nor_fails() -> None:
    nothing = {"text": None, "query": None, "noisy": None, "overlap": 0.9}
    blind = judge(variant("static-fp32", 9_000), nothing, allow_lossy=False)
    assert (blind.shipped, blind.refused) == (True, "")
    assert [gate.gate for gate in blind.gates] == ["overlap"]
    assert blind.unmeasured == ("text", "query", "noisy")
    assert blind.quality == 0.9
    why = defaults([blind])["cpu"].why
    assert "none is within the gates of a default: text could not be measured; query could not" in why
    assert not judge(variant("static-fp32", 9_000), nothing | {"overlap": 0.3}, allow_lossy=False).shipped


def test_allow_lossy_ships_it_and_keeps_the_reason() -> None:
    lossy = judge(variant("static-fp32", 9_000), _GOOD | {"text": 0.8}, allow_lossy=True)
    assert lossy.shipped
    assert (lossy.refused, lossy.exception) == ("", "text 0.8, at least 0.9")


def test_variant_refused_by_a_gate_of_its_graph_stays_refused() -> None:
    broken = judge(variant("bert3-int8", 900, refused="depends on the batch"), {}, allow_lossy=True)
    assert (broken.shipped, broken.refused) == (False, "depends on the batch")


def test_variant_that_could_not_be_run_is_not_shipped() -> None:
    unknown = judge(variant("bert3-fp16", 0, device="cuda"), {}, allow_lossy=False)
    words = "quality was not measured: this machine has no cuda, and its CPU cannot run the graph"
    assert (unknown.shipped, unknown.refused) == (False, words)


def test_error_names_every_reason_when_no_variant_is_left() -> None:
    with pytest.raises(GateError, match=r"bert3-fp32: text 0\.5, .*static-fp32: query 0\.1, "):
        defaults([judged("bert3-fp32", 800, text=0.5), judged("static-fp32", 9_000, query=0.1)])


def test_default_is_the_fastest_within_the_stricter_gates() -> None:
    variants = [
        judged("bert3-fp32", 800),
        judged("bert2-fp32", 1_200),
        judged("static-fp32", 9_000, text=0.92),  # good enough to be shipped, not to be the default
    ]
    chosen = defaults(variants)
    assert chosen["cpu"].name == "bert2-fp32"
    assert "the fastest of 3 on cpu (1,200 texts/s on one core)" in chosen["cpu"].why
    assert chosen["cuda"].name == "bert2-fp32"
    assert "no speed was measured on cuda" in chosen["cuda"].why


def test_default_is_the_variant_that_keeps_most_when_none_passes() -> None:
    chosen = defaults([judged("bert3-fp32", 800, text=0.95), judged("bert2-fp32", 1_200, text=0.91)])
    assert chosen["cpu"].name == "bert3-fp32"
    assert "none is within the gates of a default: text 0.95, at least 0.98" in chosen["cpu"].why


def test_default_is_the_smallest_of_those_within_five_percent_of_the_fastest() -> None:
    variants = [
        judged("static-fp32", 10_000, megabytes=20),
        judged("static-int8", 9_600, megabytes=6),
        judged("bert1-int8", 9_400, megabytes=3),  # more than 5 % slower
    ]
    for order in (variants, variants[::-1]):
        chosen = defaults(order)["cpu"]
        assert chosen.name == "static-int8"
        assert "the smallest of 2 within 5 % of the fastest of 3 on cpu (9,600 texts/s on one core)" in chosen.why


def test_default_among_equal_sizes_is_the_better_and_then_the_first_by_name() -> None:
    variants = [judged("b-fp32", 1_000), judged("a-fp32", 990), judged("c-fp32", 1_010, text=1.01)]
    assert defaults(variants)["cpu"].name == "c-fp32"
    assert defaults(variants[:2])["cpu"].name == defaults(variants[1::-1])["cpu"].name == "a-fp32"


@given(st.lists(st.floats(0.975, 1.025), min_size=4, max_size=4))
def test_jitter_of_the_measured_rates_does_not_change_the_default(jitter: list[float]) -> None:
    """Two variants of equal speed, two of clearly different speed: five percent between measurements decide nothing."""
    rates = {
        "static-fp32": (1_000, 20.0),
        "static-int8": (1_000, 6.0),
        "bert1-int8": (880, 3.0),
        "bert3-fp32": (90, 70),
    }
    variants = [
        judged(name, rate * factor, megabytes=megabytes)
        for (name, (rate, megabytes)), factor in zip(rates.items(), jitter, strict=True)
    ]
    assert defaults(variants)["cpu"].name == "static-int8"


def test_pareto_front_excludes_dominated_variants() -> None:
    variants = [
        judged("bert3-fp32", 800, megabytes=70),
        judged("bert3-int8", 950, megabytes=50),
        judged("bert1-fp32", 1_500, megabytes=60, text=0.91),
        judged("bert4-fp32", 700, megabytes=90, text=0.99),
    ]
    assert pareto(variants) == ["bert3-int8", "bert1-fp32"]


_FUSED = {"EmbedLayerNormalization": 1, "Attention": 3, "SkipLayerNormalization": 6, "BiasGelu": 3}


def test_fused_graph_passes() -> None:
    assert not gates.failures(gates.fusion(_FUSED, 3))


@pytest.mark.parametrize("operator", list(_FUSED))
def test_unfused_graph_is_refused_by_operator(operator: str) -> None:
    refused, excused = gates.verdict(gates.fusion(_FUSED | {operator: 0}, 3), allow_lossy=True)
    assert re.fullmatch(rf"fusion: .*{operator}.* 0, needs {_FUSED[operator]}", refused)
    assert not excused


def test_fusion_of_nonexistent_nodes_is_refused() -> None:
    assert gates.failures(gates.fusion(_FUSED | {"Attention": 4}, 3))


def test_static_graph_has_one_table_and_one_product() -> None:
    assert not gates.failures(gates.static_fusion({"Gather": 1, "MatMul": 1}))
    for wrong in ({"Gather": 2, "MatMul": 1}, {"Gather": 0, "MatMul": 1}, {"Gather": 1, "MatMul": 3}):
        assert len(gates.failures(gates.static_fusion(wrong))) == 1


def test_smaller_precision_within_the_gates_passes() -> None:
    for result in (
        gates.smaller_precision(cosine=0.9995, size=0.3, speedup=2.5),
        gates.smaller_precision(cosine=0.9995, size=0.5, speedup=None),
        gates.smaller_precision(cosine=0.9995, size=0.3, speedup=0.97, is_static=True),
    ):
        assert not gates.failures(result)


def test_passed_gate_is_recorded_with_value_and_threshold() -> None:
    names = ["cosine to fp32", "size against fp32", "speed against fp32"]
    result = gates.smaller_precision(cosine=0.9995, size=0.3, speedup=2.5)
    assert [(element.gate, element.value, element.threshold, element.passed) for element in result] == [
        (names[0], 0.9995, gates.GATES.min_cosine, True),
        (names[1], 0.3, gates.GATES.max_size, True),
        (names[2], 2.5, gates.GATES.min_speedup, True),
    ]
    assert [element.gate for element in gates.smaller_precision(cosine=0.9995, size=0.5, speedup=None)] == names[:2]


def test_failed_gate_of_the_ranker_stops_the_export() -> None:
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
    result = gates.smaller_precision(cosine=0.9995, size=0.3, speedup=0.8, is_static=True)
    assert [failure.gate for failure in gates.failures(result)] == ["speed against fp32"]


def test_allow_lossy_records_the_exception_instead() -> None:
    failed = gates.smaller_precision(cosine=0.99, size=0.3, speedup=2.0)
    assert gates.verdict(failed, allow_lossy=True) == ("", "cosine to fp32 0.99, at least 0.998")


def test_allow_lossy_never_excuses_a_wrong_graph() -> None:
    failed = [gates.at_most("batch invariance", 3e-3, gates.GATES.max_invariance)]
    assert gates.verdict(failed, allow_lossy=True) == ("batch invariance 0.003, at most 0.0001", "")
