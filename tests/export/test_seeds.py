"""`swiftrec export seeds`: mean and spread over seeds, paired differences, and a rerun that trains nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from swiftrec.export.__main__ import main
from swiftrec.export.config import ExportSettings
from swiftrec.export.job import Job
from swiftrec.export.report.tables import print_tables
from swiftrec.export.schema.comparison import ColdPair, Comparison, TeacherComparison
from swiftrec.export.schema.quality import TEACHER
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.seeds.records import of_seed, recorded_teachers
from swiftrec.export.seeds.settings import SeedsSettings
from swiftrec.export.seeds.summary import BEST, DEFAULT, Measured, SeedsSummary
from swiftrec.export.seeds.tables import as_json, tables
from swiftrec.export.stages.order import EVALUATION
from tests.export.test_promises import BERT, STATIC, record
from tests.export.test_stage_teacher import write


def near(mean: float) -> MeanInterval:
    return MeanInterval(mean, mean - 0.01, mean + 0.01)


def compared(task: str, baseline: str, mean: float, *, is_level: bool = False) -> Comparison:
    return Comparison(
        task=task, subject=TEACHER, own=0, baseline=baseline, other=0, difference=near(mean), cases=9, is_level=is_level
    )


def teacher(ids: float, best: str = "EASE") -> TeacherComparison:
    """The teacher with that NDCG@10 on ids; EASE has .1, and transitions .2 less than the teacher."""
    pair = ColdPair(share=0.03, cold=near(ids / 2), ids=near(ids), own_share=0.1, own_cold=near(0), own_ids=near(0))
    return TeacherComparison(
        protocol="leave-one-out",
        cases=9,
        tasks={"EASE": {"ids": near(0.1)}, TEACHER: {"ids": near(ids), "text": near(ids / 2)}},
        shares={TEACHER: {"title": {"first": near(ids + 0.5)}}},
        absent={},
        comparisons=[compared("ids", best, ids - 0.1)],
        named_comparisons=[
            compared("ids", "transitions", 0.2),
            compared("cold", "frozen encoder", ids / 10, is_level=True),
        ],
        lead=compared("ids", best, ids - 0.1),
        cold_pairs={TEACHER: pair},
        cold_share=0.03,
    )


TEACHERS = [Measured(7, teacher(0.1)), Measured(8, teacher(0.2, "item kNN")), Measured(9, teacher(0.6))]


def shown(summary: SeedsSummary) -> str:
    console = Console(width=300, record=True, file=io.StringIO())
    print_tables(console, tables(summary, "mine"))
    return console.export_text()


def test_figures_are_mean_and_range_over_the_seeds() -> None:
    summary = SeedsSummary.of(TEACHERS)
    spread = summary.tasks[TEACHER]["ids"]
    assert spread.mean == pytest.approx(0.3)
    assert (spread.low, spread.high, spread.seeds) == (0.1, 0.6, 3)
    assert summary.shares[TEACHER]["title first"].mean == pytest.approx(0.8)
    assert summary.cold[TEACHER]["cold"].high == pytest.approx(0.3)
    assert DEFAULT not in summary.tasks
    assert not summary.retained


def test_differences_are_to_the_best_baseline_of_each_seed() -> None:
    result = {
        (element.subject, element.yardstick, element.task): element for element in SeedsSummary.of(TEACHERS).paired
    }
    best = result[TEACHER, BEST, "ids"]
    assert [element.baseline for element in best.by_seed if element] == ["EASE", "item kNN", "EASE"]
    assert best.mean == pytest.approx(0.2)
    assert result[TEACHER, "transitions", "ids"].mean == pytest.approx(0.2)
    assert result[TEACHER, "frozen encoder", "cold at the same share of new items"].mean == pytest.approx(0.03)


def test_full_exports_add_the_default_variant_and_its_share_of_the_teacher() -> None:
    wholes = [record(BERT, STATIC, ids=0.1), record(STATIC, BERT, ids=0.3)]  # another default with another seed
    summary = SeedsSummary.of([Measured(n, teacher(0.1), quality) for n, quality in enumerate(wholes)])
    assert summary.tasks[DEFAULT]["ids"].mean == pytest.approx(0.2)
    assert summary.shares[DEFAULT]["title in ten"].mean == pytest.approx(1.0)
    assert summary.cold[DEFAULT]["cold"].mean == pytest.approx(0.02)
    assert summary.retained["bert3-int8"]["text"].seeds == 2
    assert (DEFAULT, "transitions", "ids") in {
        (element.subject, element.yardstick, element.task) for element in summary.paired
    }


def test_task_of_one_seed_only_is_shown_with_a_gap() -> None:
    other = teacher(0.2).model_copy(update={"comparisons": [compared("tags", "EASE", 0.3)]})
    summary = SeedsSummary.of([TEACHERS[0], Measured(8, other)])
    (tags,) = [element for element in summary.paired if element.task == "tags"]
    assert tags.by_seed[0] is None
    assert tags.mean == pytest.approx(0.3)
    assert "+0.3000 [+0.290, +0.310]" in shown(summary)


def test_tables_explain_the_seed_and_the_spread() -> None:
    text = shown(SeedsSummary.of(TEACHERS))
    assert "mine: NDCG@10, mean over seeds 7, 8, 9 [lowest, highest]" in text
    assert "0.3000 [0.1000, 0.6000]" in text
    assert "+0.1000 [+0.090, +0.110] item kNN" in text
    assert "each user's last events and the cold items are the same for every seed." in " ".join(text.split())


def test_json_has_every_figure_of_the_tables() -> None:
    result = json.loads(json.dumps(as_json(SeedsSummary.of(TEACHERS), {"name": "mine"})))
    assert (result["name"], result["seeds"]) == ("mine", [7, 8, 9])
    assert result["tasks"][TEACHER]["ids"] == {"mean": pytest.approx(0.3), "low": 0.1, "high": 0.6, "seeds": 3}
    best = next(element for element in result["paired"] if element["yardstick"] == BEST)
    assert best["by_seed"]["8"]["baseline"] == "item kNN"
    assert {"mean", "low", "high"} < {*best["by_seed"]["7"]}


def test_each_seed_trains_another_teacher_and_a_rerun_trains_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset", "smoke", "--data", str(write(tmp_path)), "--checkpoint", str(tmp_path / "bert")]
    argv = ["seeds", "--seeds", "1,2", "--name", "mine", "--artifacts", str(tmp_path / "made"), *flags]
    assert main(argv) == 0
    first = capsys.readouterr()
    assert "seed 2 (2 of 2), in " in " ".join(first.err.split())
    assert "mine, leave-one-out: NDCG@10, mean over seeds 1, 2 [lowest, highest]" in " ".join(first.out.split())
    stages = tmp_path / "made" / ".stages"
    assert {path.name for path in stages.iterdir()} == {"mine-seed-1", "mine-seed-2"}
    weights = [(stages / f"mine-seed-{seed}" / "finetune" / "teacher.safetensors").read_bytes() for seed in (1, 2)]
    assert weights[0] != weights[1]
    cases = [(stages / f"mine-seed-{seed}" / "data" / "histories.npz").read_bytes() for seed in (1, 2)]
    assert cases[0] == cases[1]
    assert main([*argv, "--json"]) == 0
    again = capsys.readouterr()
    assert "finetune" not in again.err
    result = json.loads(again.out)
    assert (result["seeds"], result["preset"]) == ([1, 2], "smoke")
    assert {TEACHER, "transitions", "ranker alone", "text match alone"} <= result["tasks"].keys()
    settings = ExportSettings(artifacts=tmp_path / "made", _cli_parse_args=flags)
    assert recorded_teachers(settings, "mine", "leave-one-out").keys() == {1, 2}
    assert not recorded_teachers(settings, "mine", "time")
    (stages / "mine-seed-2" / "blend" / "stage.json").unlink()
    assert recorded_teachers(settings, "mine", "leave-one-out").keys() == {1}


def test_full_export_of_a_seed_ends_with_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "smoke", "--data", str(write(tmp_path)), "--checkpoint", str(tmp_path / "bert")]
    argv = [
        "seeds",
        "--seeds",
        "1",
        "--whole",
        "--allow-lossy",
        "--name",
        "mine",
        "--artifacts",
        str(tmp_path / "made"),
    ]
    assert main([*argv, "--json", *flags]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (tmp_path / "made" / "mine-seed-1" / "1" / "manifest.json").exists()
    assert {"ids", "text"} <= result["tasks"][DEFAULT].keys()
    assert any(name.startswith("static-") for name in result["retained"])
    pairs = {(element["subject"], element["yardstick"], element["task"]) for element in result["paired"]}
    assert {(TEACHER, BEST, "ids"), (DEFAULT, BEST, "ids"), (DEFAULT, "transitions", "ids")} <= pairs


def test_each_seed_has_separate_stages_and_bundle() -> None:
    settings = SeedsSettings(_cli_parse_args=["--protocol", "time"])
    seeded = of_seed(settings, 8)
    assert (seeded.name, seeded.seed) == ("movielens-quick-time-seed-8", 8)
    assert Job(seeded).folder(EVALUATION.name).as_posix() == "artifacts/.stages/movielens-quick-time-seed-8/teacher"
    assert settings.seeds == [7, 8, 9]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--seed", "3"], "--seed 3: give --seeds 3 instead"),
        (["--seeds", "7,7"], "--seeds 7,7: a seed is given twice"),
        (["--seeds", "-1"], "--seeds: Input should be greater than or equal to 0"),
        (["verify"], "seeds runs no single stage, got verify: leave it out"),
    ],
)
def test_invalid_flags_are_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert main(["seeds", *flags]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1
