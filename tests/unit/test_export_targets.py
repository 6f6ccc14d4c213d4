"""What an export promises: met, missed, and not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export.evaluate.choose import Default, judge
from export.evaluate.metrics import Figure
from export.evaluate.record import OtherProtocol, Quality, TeacherRecord, VariantRecord
from export.package import targets as module
from export.package.targets import targets
from export.variants import Variant


def near(mean: float) -> Figure:
    return Figure(mean, mean - 0.01, mean + 0.01)


def student(
    name: str, layers: int, speedup: float, *, kept: float = 0.99, noisy: float = 0.95, dependence: float = 1e-7
) -> VariantRecord:
    kind, _, precision = name.rpartition("-")
    graph = Variant(
        name, kind, precision, "cpu", f"{name}.onnx", layers, 384, 50, 60 * speedup, 1, speedup, 1, dependence
    )
    judged = replace(judge(graph, {"overlap": 1.0}, allow_lossy=False), is_shipped=True)
    return VariantRecord.of(judged, {"text": near(kept), "query": near(kept)}, near(noisy), on_front=True)


def record(*variants: VariantRecord, teacher: float = 0.11, cold: float = 0.06, popular: float = 0.01) -> Quality:
    """The first variant is the default; transitions have .115."""
    return Quality(
        protocol="leave-one-out",
        cases={"warm": 9, "cold": 9},
        cold_items=9,
        tasks={
            "teacher": {"ids": near(teacher)},
            "transitions": {"ids": near(0.115)},
            "popularity": {"cold": near(popular)},
            variants[0].variant.name: {"ids": near(0.11), "cold": near(cold)},
        },
        probes={},
        lists={},
        wanted_by_popularity=[],
        groups={},
        other=OtherProtocol(protocol="", cases=0, ndcg={}, remark=""),
        teacher=TeacherRecord(layers=6, hidden=384, megabytes=90, texts_per_s_core=60),
        variants=list(variants),
        default={"cpu": Default(variants[0].variant.name, "")},
        curve=[],
        machine="",
    )


BERT, STATIC = student("bert3-int8", 3, 9.0), student("static-fp32", 0, 400.0)


def missed(quality: Quality) -> list[str]:
    return [target.name for target in targets(quality) if not target.is_met]


def test_every_promise_is_met_by_a_good_record() -> None:
    found = list(targets(record(BERT, STATIC)))
    assert [str(t) for t in found if not t.is_met] == []
    assert len(found) == 11
    assert "0.99 [0.980, 1.000], wanted >= 0.98: met" in str(found[1])


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (record(BERT, STATIC, teacher=0.10), ["teacher"]),  # .110 at most, below .115
        (record(student("bert3-int8", 3, 7.9), STATIC), ["PyTorch teacher"]),
        (record(student("bert3-int8", 3, 9.0, kept=0.97), STATIC), ["text", "query"]),
        (record(student("bert3-int8", 3, 9.0, noisy=0.91), STATIC), ["noisy"]),
        (record(student("bert3-int8", 3, 9.0, dependence=2e-4), STATIC), ["batch"]),
        (record(BERT, student("static-fp32", 0, 99.0)), ["static"]),
        (record(BERT, student("static-fp32", 0, 400.0, kept=0.89)), ["text", "query"]),
        (record(BERT, STATIC, cold=0.05), ["half of warm"]),
        (record(BERT, STATIC, popular=0.021), ["popularity"]),
        (record(BERT), ["static", "static", "static"]),  # there is none
    ],
)
def test_each_promise_is_missed_alone(quality: Quality, words: list[str]) -> None:
    found = missed(quality)
    assert len(found) == len(words)
    assert all(word in name for word, name in zip(words, found, strict=True))


@pytest.mark.parametrize(("teacher", "code"), [(0.11, 0), (0.10, 1)])
def test_command_exits_1_when_one_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], teacher: float, code: int
) -> None:
    def load(_: Path) -> Quality:
        return record(BERT, STATIC, teacher=teacher)

    monkeypatch.setattr(module, "load_quality", load)
    assert module.main([]) == code
    assert ("MISSED" in capsys.readouterr().out) == bool(code)
