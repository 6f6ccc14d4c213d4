"""The gates: what loses quality is not shipped, with the gate, the value and the threshold; and who is the default."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.selection import Judged, defaults, judge, pareto
from swiftrec.export.quality import EVERY_TASK, QUALITY, Quality
from swiftrec.export.variants import Variant

_GOOD = {"text": 1.0, "query": 1.0, "noisy": 1.0, "another task": 1.0, "overlap": 0.9}


def variant(name: str, speed: float, *, megabytes: float = 50.0, device: str = "cpu", refused: str = "") -> Variant:
    student, _, precision = name.rpartition("-")
    return Variant(
        name, student, precision, device, f"encoder.{name}.onnx", 3, 384, megabytes, speed, 1.0, 5.0, 1.0, 1e-7, refused
    )


def judged(name: str, speed: float, *, megabytes: float = 50.0, **kept: float) -> Judged:
    return judge(variant(name, speed, megabytes=megabytes), _GOOD | kept, allow_lossy=False)


def test_variant_within_the_gates_is_shipped() -> None:
    assert judged("bert3-fp32", 800, text=0.90).is_shipped


@pytest.mark.parametrize("gate", [*_GOOD, "cosine"])
def test_lossy_variant_is_not_shipped_and_says_by_how_much(gate: str) -> None:
    lossy = judged("static-fp32", 9_000, **{gate: 0.4})
    assert not lossy.is_shipped
    assert lossy.refused.startswith(f"{gate} 0.400, 0.")
    assert "short of" in lossy.refused


def test_every_gate_can_fail_for_an_encoder() -> None:
    assert set(QUALITY.shipped) == set(QUALITY.default) == {EVERY_TASK, "overlap", "cosine"}
    assert QUALITY.shipped[EVERY_TASK] == 0.90
    assert QUALITY.default[EVERY_TASK] == 0.98


@pytest.mark.parametrize("task", ["text", "query", "noisy", "another task"])
def test_default_keeps_more_of_the_teacher_on_every_task_than_what_is_shipped(task: str) -> None:
    weak = judged("static-int8", 9_000, **{task: 0.97})
    assert weak.is_shipped
    assert defaults([weak, judged("bert3-fp32", 800)])["cpu"].name == "bert3-fp32"
    kept = judged("static-int8", 9_000, **{task: 0.98})
    assert defaults([kept, judged("bert3-fp32", 800)])["cpu"].name == "static-int8"
    assert not judged("static-int8", 9_000, **{task: 0.89}).is_shipped


def test_gate_that_is_named_stands_before_that_of_every_task() -> None:
    checks = Quality(shipped={EVERY_TASK: 0.98, "cold": 0.80}, default={}).check({"ids": 0.97, "cold": 0.81})
    assert [(check.gate, check.has_passed) for check in checks] == [("ids", False), ("cold", True)]


def test_gate_that_could_not_be_measured_is_no_pass_and_no_failure() -> None:
    nothing = {"text": None, "query": None, "noisy": None, "overlap": 0.9}
    blind = judge(variant("static-fp32", 9_000), nothing, allow_lossy=False)
    assert (blind.is_shipped, blind.refused) == (True, "")
    assert [check.gate for check in blind.checks] == ["overlap"]
    assert blind.unmeasured == ("text", "query", "noisy")
    assert blind.quality == 0.9
    why = defaults([blind])["cpu"].why
    assert "none is within the gates of a default: text could not be measured; query could not" in why
    assert not judge(variant("static-fp32", 9_000), nothing | {"overlap": 0.3}, allow_lossy=False).is_shipped


def test_allow_lossy_ships_it_and_keeps_the_reason() -> None:
    lossy = judge(variant("static-fp32", 9_000), _GOOD | {"text": 0.8}, allow_lossy=True)
    assert lossy.is_shipped
    assert lossy.refused == "text 0.800, 0.100 short of 0.900"


def test_what_a_mechanical_gate_refused_stays_refused() -> None:
    broken = judge(variant("bert3-int8", 900, refused="depends on the batch"), {}, allow_lossy=True)
    assert (broken.is_shipped, broken.refused) == (False, "depends on the batch")


def test_variant_that_could_not_be_run_is_not_shipped() -> None:
    unknown = judge(variant("bert3-fp16", 0, device="cuda"), {}, allow_lossy=False)
    words = "quality was not measured: this machine has no cuda, and its CPU cannot run the graph"
    assert (unknown.is_shipped, unknown.refused) == (False, words)


def test_none_left_is_an_error_that_names_every_reason() -> None:
    with pytest.raises(GateError, match=r"bert3-fp32: text 0\.500.*static-fp32: query 0\.100"):
        defaults([judged("bert3-fp32", 800, text=0.5), judged("static-fp32", 9_000, query=0.1)])


def test_default_is_the_fastest_within_the_stricter_gates() -> None:
    ladder = [
        judged("bert3-fp32", 800),
        judged("bert2-fp32", 1_200),
        judged("static-fp32", 9_000, text=0.92),  # good enough to be shipped, not to be the default
    ]
    chosen = defaults(ladder)
    assert chosen["cpu"].name == "bert2-fp32"
    assert "the fastest of 3 on cpu (1,200 texts/s on one core)" in chosen["cpu"].why
    assert chosen["cuda"].name == "bert2-fp32"
    assert "no speed was measured on cuda" in chosen["cuda"].why


def test_default_is_the_one_that_keeps_most_when_none_is_within() -> None:
    chosen = defaults([judged("bert3-fp32", 800, text=0.95), judged("bert2-fp32", 1_200, text=0.91)])
    assert chosen["cpu"].name == "bert3-fp32"
    assert "none is within the gates of a default: text 0.950, 0.030 short of 0.980" in chosen["cpu"].why


def test_default_is_the_smallest_of_those_within_five_percent_of_the_fastest() -> None:
    ladder = [
        judged("static-fp32", 10_000, megabytes=20),
        judged("static-int8", 9_600, megabytes=6),
        judged("bert1-int8", 9_400, megabytes=3),  # more than 5 % slower
    ]
    for order in (ladder, ladder[::-1]):
        chosen = defaults(order)["cpu"]
        assert chosen.name == "static-int8"
        assert "the smallest of 2 within 5 % of the fastest of 3 on cpu (9,600 texts/s on one core)" in chosen.why


def test_default_of_equal_files_is_the_better_one_and_then_the_first_by_name() -> None:
    ladder = [judged("b-fp32", 1_000), judged("a-fp32", 990), judged("c-fp32", 1_010, text=1.01)]
    assert defaults(ladder)["cpu"].name == "c-fp32"
    assert defaults(ladder[:2])["cpu"].name == defaults(ladder[1::-1])["cpu"].name == "a-fp32"


@given(st.lists(st.floats(0.975, 1.025), min_size=4, max_size=4))
def test_jitter_of_the_measured_rates_does_not_change_the_default(jitter: list[float]) -> None:
    """Two variants equally fast, two well apart: five percent between two measurements decide nothing."""
    rates = {
        "static-fp32": (1_000, 20.0),
        "static-int8": (1_000, 6.0),
        "bert1-int8": (880, 3.0),
        "bert3-fp32": (90, 70),
    }
    ladder = [
        judged(name, rate * factor, megabytes=megabytes)
        for (name, (rate, megabytes)), factor in zip(rates.items(), jitter, strict=True)
    ]
    assert defaults(ladder)["cpu"].name == "static-int8"


def test_front_leaves_out_what_is_slower_worse_and_larger() -> None:
    ladder = [
        judged("bert3-fp32", 800, megabytes=70),
        judged("bert3-int8", 950, megabytes=50),
        judged("bert1-fp32", 1_500, megabytes=60, text=0.91),
        judged("bert4-fp32", 700, megabytes=90, text=0.99),
    ]
    assert pareto(ladder) == ["bert3-int8", "bert1-fp32"]
