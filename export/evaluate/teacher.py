"""`python -m export teacher`: the teacher beside the baselines, by the protocol that it was trained for."""

from __future__ import annotations

from rich.console import Console

from export.evaluate.compare import Answers, baselines
from export.evaluate.ground import Ground
from export.evaluate.metrics import Figure, figure
from export.evaluate.record import TEACHER
from export.evaluate.table import figures_table
from export.stage import STAGES, Job, run_all

_STAGES = ("data", "finetune")
_WIDTH = 120  # whatever the terminal: a subject is one line


def compare_teacher(job: Job) -> None:
    """Run the stages up to the teacher where they are stale, and print its figures and those of the baselines."""
    run_all(Job(job.settings, job.console, tuple(stage for stage in STAGES if stage.name in _STAGES)))
    ground = Ground.load(job)
    answers = baselines(ground) | {TEACHER: ground.teacher.answers(ground.tasks, ground.teacher.of_items(ground.tasks))}
    title = f"NDCG@10, {job.settings.protocol}, {len(ground.tasks.warm.wanted)} users"
    console = Console(width=_WIDTH)
    console.print(figures_table(title, {name: ground.figures(row) for name, row in answers.items()}))
    best, ahead = lead(answers, ground.seed)
    console.print(
        f"teacher - {best}, the best baseline on ids, over the same users: {ahead}", markup=False, highlight=False
    )


def lead(answers: dict[str, Answers], seed: int) -> tuple[str, Figure]:
    """The best baseline on ids, and by how much the teacher's NDCG@10 is above it, case by case."""
    ids = {name: row["ids"].ndcg for name, row in answers.items() if "ids" in row}
    own = ids.pop(TEACHER)
    best = max(ids, key=lambda name: float(ids[name].mean()))
    return best, figure(own - ids[best], seed)
