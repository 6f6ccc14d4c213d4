"""A promise: its verdict and its sentence; every tool judges its goals by the one class."""

from __future__ import annotations

import ast

import pytest

from swiftrec.benchmarks import formatting
from swiftrec.promise import Promise, missed
from tests.conftest import ROOT


def test_median_decides() -> None:
    assert Promise("a", 0.9, [0.8, 0.91, 0.95]).verdict == "met"
    assert Promise("a", 0.9, [0.8, 0.89, 0.95]).verdict == "MISSED"
    assert Promise("a", 2.0, [1.9, 2.1, 1.0], at_most=True).verdict == "met"
    assert Promise("a", 2.0, [], why="swiftrec bench").verdict == "not measured: swiftrec bench"


@pytest.mark.parametrize("at_most", [False, True])
@pytest.mark.parametrize("values", [[float("nan")], [1.0, float("nan"), 1.0]])
def test_nan_meets_no_bound(values: list[float], *, at_most: bool) -> None:
    assert Promise("a", 1.0, values, at_most=at_most).verdict == "MISSED"


@pytest.mark.parametrize(
    ("promise", "sentence"),
    [
        (Promise("a", 0.5, [0.75]), "a: 0.75, promised >= 0.5: met"),
        (Promise("a", 0.5, [0.2, 0.4, 0.3]), "a: 0.3 [0.200, 0.400], promised >= 0.5: MISSED"),
        (Promise("a", 1, [0.5], at_most=True, interval=(0.4, 0.7)), "a: 0.5 [0.400, 0.700], promised <= 1: met"),
        (Promise("a", 0, [12_345], at_most=True), "a: 12,345, promised <= 0: MISSED"),
        (Promise("a", 1, [], why="export again"), "a: -, promised >= 1: not measured: export again"),
        (Promise("a", 1, []), "a: -, promised >= 1: not measured"),
    ],
)
def test_promise_as_a_sentence(promise: Promise, sentence: str) -> None:
    assert str(promise) == sentence
    assert missed([promise]) == ([] if sentence.endswith(": met") else [sentence])


@pytest.mark.parametrize(("value", "code", "line"), [(1.0, 0, "every goal is met"), (3.0, 1, "promised <= 2: MISSED")])
def test_tool_exits_1_if_a_goal_is_missed(
    value: float,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(formatting, "fingerprint", dict)
    assert formatting.finish_judged("fair", "table", {}, [Promise("a", 2.0, [value], at_most=True)]) == code
    assert line in capsys.readouterr().out


def classes(room: str, *names: str) -> set[str]:
    """The files of a folder that define a class of one of these names."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and node.name in names
    }


def test_there_is_one_class_for_promises() -> None:
    files = set().union(*(classes(room, "Promise", "Goal") for room in ("swiftrec", "export", "benchmarks")))
    assert files == {"swiftrec/promise.py"}
