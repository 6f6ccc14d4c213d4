"""`python -m export teacher`: the teacher beside the baselines, by the protocol that it was trained for."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from export.evaluate.compare import Answers, Evaluation
from export.evaluate.comparisons import pairs_of
from export.evaluate.ground import Ground
from export.evaluate.metrics import Figure, figure
from export.evaluate.record import COMPARED, TEACHER, Compared
from export.evaluate.table import cold_table, figures_table
from export.stage import Job, run_all
from export.stages import STAGES

_STAGES = ("data", "finetune", "blend")
_WIDTH = 210  # whatever the terminal: a subject is one line


def compare_teacher(job: Job) -> None:
    """Run the stages up to the teacher where they are stale; print its figures and the baselines', and keep both."""
    run_all(Job(job.settings, job.console, tuple(stage for stage in STAGES if stage.name in _STAGES)))
    with job.progress("evaluate", 3) as step:
        ground = Ground.load(job)
        step()
        evaluation = Evaluation(ground)
        evaluation.add_baselines()
        step()
        evaluation.add(TEACHER, ground.teacher)
        step()
    found = Compared(
        protocol=job.settings.protocol,
        cases=len(ground.tasks.warm.wanted),
        tasks={name: ground.figures(row) for name, row in evaluation.answers.items()},
    )
    _keep(found, job.folder("finetune") / COMPARED)
    console = Console(width=_WIDTH)
    console.print(figures_table(f"NDCG@10, {found.protocol}, {found.cases} users", found.tasks))
    if evaluation.levelled:
        console.print(cold_table(pairs_of(evaluation), ground.newcomers.share))
    best, ahead = lead(evaluation.answers, ground.seed)
    console.print(
        f"teacher - {best}, the best baseline on ids, over the same users: {ahead}", markup=False, highlight=False
    )


def _keep(found: Compared, path: Path) -> None:
    """Write it whole or not at all."""
    scratch = path.with_name(f"{path.name}.partial")
    scratch.write_text(found.model_dump_json(indent=1))
    scratch.replace(path)


def lead(answers: dict[str, Answers], seed: int) -> tuple[str, Figure]:
    """The best baseline on ids, and by how much the teacher's NDCG@10 is above it, case by case."""
    ids = {name: row["ids"].ndcg for name, row in answers.items() if "ids" in row}
    own = ids.pop(TEACHER)
    best = max(ids, key=lambda name: float(ids[name].mean()))
    return best, figure(own - ids[best], seed)
