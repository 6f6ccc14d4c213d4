"""What an export promises: met, missed, and not measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from export.config import ExportSettings
from export.evaluate.choose import Default, judge
from export.evaluate.compare import ORACLE
from export.evaluate.metrics import Figure, ndcg, random_ndcg
from export.evaluate.models_record import TeacherRecord, VariantRecord
from export.evaluate.record import COMPARED, Compared, Comparison, OtherProtocol, Quality
from export.package import targets as module
from export.package.targets import by_time, targets
from export.variants import Variant


def near(mean: float) -> Figure:
    return Figure(mean, mean - 0.01, mean + 0.01)


def student(
    name: str, layers: int, speedup: float, *, kept: float = 0.99, noisy: float = 0.99, dependence: float = 1e-7
) -> VariantRecord:
    kind, _, precision = name.rpartition("-")
    graph = Variant(
        name, kind, precision, "cpu", f"{name}.onnx", layers, 384, 50, 60 * speedup, 1, speedup, 1, dependence
    )
    judged = replace(judge(graph, {"overlap": 1.0}, allow_lossy=False), is_shipped=True)
    shares = {"ids": near(0.5), "text": near(kept), "query": near(kept), "noisy": near(noisy)}
    return VariantRecord.of(judged, shares, on_front=True)


def distance(task: str, high: float, group: str = "") -> Comparison:
    """The default minus a baseline: .01 below by the mean."""
    difference = Figure(-0.01, -0.03, high)
    return Comparison(
        task=task, subject="", own=0.1, baseline="EASE", other=0.11, difference=difference, cases=9, group=group
    )


def record(
    *variants: VariantRecord,
    teacher: float = 0.11,
    cold: float = 0.06,
    popular: float = 0.01,
    title: float = 0.0,
    group: float = 0.0,
) -> Quality:
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
        comparisons=[distance("ids", 0.01), distance("title", title)],
        group_comparisons=[distance("ids", 0.01, "gender F"), distance("ids", group, "gender M")],
    )


ITEMS = 2_000
BERT, STATIC = student("bert3-int8", 3, 9.0), student("static-fp32", 0, 400.0)


def missed(quality: Quality) -> list[str]:
    return [target.name for target in targets(quality, ITEMS) if not target.is_met]


def test_every_promise_is_met_by_a_good_record() -> None:
    found = list(targets(record(BERT, STATIC), ITEMS))
    assert [str(t) for t in found if not t.is_met] == []
    assert len(found) == 14
    assert "0.99 [0.980, 1.000], wanted >= 0.98: met" in str(found[1])


def test_speed_is_judged_by_its_median_and_shown_with_its_rounds() -> None:
    swift = replace(BERT.variant, speedup_range=(7.5, 9.6))
    found = targets(record(BERT.model_copy(update={"variant": swift}), STATIC), ITEMS)
    said = [str(target) for target in found if "PyTorch teacher" in target.name]
    assert said[0].endswith("9 [7.500, 9.600], wanted >= 8: met")
    assert said[1].endswith("400, wanted >= 100: met")  # of an older export, which kept no rounds


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        (record(BERT, STATIC, teacher=0.10), ["teacher"]),  # .110 at most, below .115
        (record(student("bert3-int8", 3, 7.9), STATIC), ["PyTorch teacher"]),
        (record(student("bert3-int8", 3, 9.0, kept=0.97), STATIC), ["text", "query"]),
        (record(student("bert3-int8", 3, 9.0, noisy=0.97), STATIC), ["noisy"]),
        (record(student("bert3-int8", 3, 9.0, dependence=2e-4), STATIC), ["batch"]),
        (record(BERT, student("static-fp32", 0, 99.0)), ["static"]),
        (record(BERT, student("static-fp32", 0, 400.0, kept=0.89)), ["text", "query"]),
        (record(BERT, STATIC, title=-0.001), ["on title minus EASE"]),
        (record(BERT, STATIC, group=-0.001), ["groups of users"]),
        (record(BERT, STATIC, popular=0.021), ["popularity"]),
        (record(BERT, STATIC, popular=0.0), []),
        (record(BERT), ["static", "static", "static"]),  # there is none
    ],
)
def test_each_promise_is_missed_alone(quality: Quality, words: list[str]) -> None:
    found = missed(quality)
    assert len(found) == len(words)
    assert all(word in name for word, name in zip(words, found, strict=True))


@pytest.mark.parametrize(("items", "is_met"), [(1_000, True), (100, False)])
def test_cold_is_held_against_chance_where_popularity_knows_no_cold_item(items: int, is_met: bool) -> None:
    quality = record(BERT, STATIC, popular=0.0)  # cold .06; chance is .0045 of 1,000 items and .0454 of 100
    (found,) = [target for target in targets(quality, items) if "3x popularity" in target.name]
    assert found.is_met == is_met
    assert f"popularity as training sees it (0.0000) or chance ({random_ndcg(items):.4f})" in found.name


def test_chance_is_the_mean_over_every_place() -> None:
    every = [ndcg(np.arange(30, 0, -1, dtype=np.float32), np.empty(0, np.int64), wanted) for wanted in range(30)]
    assert random_ndcg(30) == pytest.approx(np.mean(every))
    assert random_ndcg(2) == pytest.approx((1 + 1 / np.log2(3)) / 2)


def settings(folder: Path, *flags: str) -> ExportSettings:
    return ExportSettings(artifacts=folder, _cli_parse_args=list(flags))


def keep(folder: Path, teacher: float, *, protocol: Literal["leave-one-out", "time"] = "time") -> None:
    """What `export teacher --protocol time` leaves; EASE has .05, transitions .04."""
    at = folder / ".stages" / "movielens-quick-time" / "finetune"
    at.mkdir(parents=True)
    ids = {"transitions": 0.04, "EASE": 0.05, "teacher": teacher}
    tasks = {name: {"ids": near(mean)} for name, mean in ids.items()} | {ORACLE: {"cold": near(0.9)}}
    (at / COMPARED).write_text(Compared(protocol=protocol, cases=9, tasks=tasks).model_dump_json())


@pytest.mark.parametrize(("teacher", "verdict"), [(0.05, "met"), (0.049, "MISSED")])
def test_teacher_by_time_is_held_against_the_best_baseline(tmp_path: Path, teacher: float, verdict: str) -> None:
    keep(tmp_path, teacher)
    found = str(by_time(settings(tmp_path), record(BERT, STATIC)))
    assert "best of all baselines (EASE)" in found
    assert found.endswith(f"wanted >= 0.05: {verdict}")


def test_teacher_by_time_is_read_from_a_bundle_of_that_protocol_and_its_students_are_no_baselines(
    tmp_path: Path,
) -> None:
    quality = record(BERT, STATIC, teacher=0.12).model_copy(update={"protocol": "time"})
    quality.tasks[BERT.variant.name]["ids"] = near(0.5)
    assert by_time(settings(tmp_path, "--protocol", "time"), quality).is_met


@pytest.mark.parametrize("left", ["nothing", "damage", "another protocol"])
def test_teacher_by_time_that_was_not_measured_says_how_to(tmp_path: Path, left: str) -> None:
    if left != "nothing":
        keep(tmp_path, 0.1, protocol="time" if left == "damage" else "leave-one-out")
    if left == "damage":
        (tmp_path / ".stages" / "movielens-quick-time" / "finetune" / COMPARED).write_text("{")
    found = by_time(settings(tmp_path), record(BERT, STATIC))
    assert not found.is_met
    assert str(found).endswith(
        "not measured: python -m export teacher --protocol time --name movielens-quick-time --preset quick"
    )


@pytest.mark.parametrize(("teacher", "code"), [(0.11, 0), (0.10, 1)])
def test_command_exits_1_when_one_is_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], teacher: float, code: int, tmp_path: Path
) -> None:
    def load(_: Path) -> Quality:
        return record(BERT, STATIC, teacher=teacher)

    keep(tmp_path, 0.06)
    monkeypatch.setattr(module, "load_quality", load)
    monkeypatch.setattr(module, "catalogue_size", lambda _: ITEMS)
    assert module.main(["--artifacts", str(tmp_path)]) == code
    said = capsys.readouterr().out
    assert ("MISSED" in said) == bool(code)
    assert f"{15 - code} of 15 figures are met; means are judged" in said
