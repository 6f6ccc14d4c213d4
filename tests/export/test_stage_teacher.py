"""`swiftrec export teacher`: two stages and a table; the best baseline is named with the distance to it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from swiftrec.export.config import ExportSettings
from swiftrec.export.evaluate.comparisons import compare_best_baseline
from swiftrec.export.evaluate.metrics import RankedCases
from swiftrec.export.job import Job
from swiftrec.export.schema.comparison import COMPARED, TeacherComparison
from swiftrec.export.schema.quality import RANKER_ALONE, TEXT_ALONE
from swiftrec.export.stages.order import EVALUATION, TEACHER_STAGES
from swiftrec.export.stages.runner import is_fresh
from swiftrec.export.stages.teacher import compare_teacher, teacher_comparison
from tests.export.checkpoints import WORDS, save_model


def ranked(*ranks: int) -> RankedCases:
    return RankedCases(np.array(ranks), np.empty((len(ranks), 10), np.int64))


def test_lead_is_measured_against_the_best_baseline_on_ids() -> None:
    answers = {
        "weak": {"ids": ranked(20, 1)},
        "good": {"ids": ranked(0, 20)},
        "blind": {"cold": ranked(0, 0)},
        RANKER_ALONE: {"ids": ranked(0, 0)},  # a part of the teacher's score, so no baseline
        "teacher": {"ids": ranked(0, 0), "text": ranked(20, 20)},
    }
    result = compare_best_baseline(answers, seed=1)
    assert (result.baseline, result.cases) == ("good", 2)
    assert (result.difference.mean, result.difference.low, result.difference.high) == (0.5, 0.0, 1.0)


def write(folder: Path) -> Path:
    """40 items, 30 users with 8 events each, all at times of their own, and a tiny BERT."""
    rng, data = random.Random(1), folder / "data"
    data.mkdir()
    items = [{"item_id": n, "text": " ".join(rng.sample(WORDS, 3))} for n in range(40)]
    events = [
        {"user_id": u, "item_id": n, "timestamp": 100 * t + u}
        for u in range(30)
        for t, n in enumerate(rng.sample(range(40), 8))
    ]
    (data / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (data / "interactions.jsonl").write_text("\n".join(map(json.dumps, events)))
    save_model("bert", folder / "bert")
    return data


@pytest.mark.parametrize("protocol", ["leave-one-out", "time"])
def test_teacher_alone_is_trained_and_compared(
    tmp_path: Path, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset", "smoke", "--protocol", protocol, "--checkpoint", str(tmp_path / "bert")]
    settings = ExportSettings(artifacts=tmp_path, _cli_parse_args=["--data", str(write(tmp_path)), *flags])
    job = Job(settings)
    compare_teacher(job)
    shown = capsys.readouterr().out
    assert {path.name for path in job.root.iterdir()} == {".lock", "data", "finetune", "blend", "teacher"}
    assert f"NDCG@10, {protocol}, 30 users" in shown
    assert "transitions" in shown
    assert "the best baseline on ids: ids: teacher " in shown
    comparison = TeacherComparison.model_validate_json((job.folder("teacher") / COMPARED).read_bytes())
    assert (comparison.protocol, comparison.cases) == (protocol, 30)
    assert {"teacher", "transitions", "EASE", RANKER_ALONE, TEXT_ALONE} <= comparison.tasks.keys()
    assert {c.task for c in comparison.comparisons} >= {"ids", "text", "title"}
    assert comparison.named_comparisons[0].baseline == "transitions"
    times = stage_times(job)
    compare_teacher(job)
    assert stage_times(job) == times  # what is fresh is neither trained nor evaluated again
    assert capsys.readouterr().out == shown


def stage_times(job: Job) -> dict[str, int]:
    return {name: (job.folder(name) / "stage.json").stat().st_mtime_ns for name in ("finetune", "blend", "teacher")}


def test_evaluation_is_stale_when_the_blend_changes(tmp_path: Path) -> None:
    flags = ["--preset", "smoke", "--checkpoint", str(tmp_path / "bert"), "--data", str(write(tmp_path))]
    job = Job(ExportSettings(artifacts=tmp_path, _cli_parse_args=flags))
    teacher_comparison(job)
    assert is_fresh(job, EVALUATION, TEACHER_STAGES)
    path = job.folder("blend") / "stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "of other weights"}))
    assert not is_fresh(job, EVALUATION, TEACHER_STAGES)


def test_each_protocol_has_a_separate_folder() -> None:
    names = [ExportSettings(_cli_parse_args=["--protocol", p]).name for p in ("leave-one-out", "time")]
    assert names == ["movielens-quick", "movielens-quick-time"]
