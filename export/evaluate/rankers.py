"""Which ranker the bundle has: the teacher's, or the small one that was trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from swiftrec.export.compress.ranker_graphs import RankerGraph, read_rankers
from swiftrec.export.evaluate.backends import served_rank
from swiftrec.export.evaluate.context import Ground
from swiftrec.export.evaluate.metrics import Figure, Ranked, share
from swiftrec.export.evaluate.models_record import RankerRecord
from swiftrec.export.gates import at_least, ranker_parity
from swiftrec.export.quality import QUALITY, Check, least_of
from swiftrec.export.stages.runner import Job


def judge_rankers(job: Job, ground: Ground, teacher: Mapping[str, Ranked]) -> list[RankerRecord]:
    """Every ranker with what it keeps of the teacher's answers behind the teacher's own vectors; one is shipped."""
    folder = job.folder("onnx")
    big, *others = read_rankers(folder)
    records = []
    for small in others:
        rank = served_rank(folder / small.file, ground.teacher.items.shape[1])
        subject = replace(ground.teacher, rank=rank)
        answers = subject.answers(ground.tasks, subject.of_items(ground.tasks))
        shares = {task: share(answers[task].ndcg, teacher[task].ndcg, ground.seed) for task in answers}
        kept = {task: figure for task, figure in shares.items() if figure}
        unknown = [task for task in shares if task not in kept and least_of(QUALITY.ranker, task)]
        checks = QUALITY.check_ranker(_values(kept, big, small))
        records.append(_record(small, kept, checks, unknown, is_wanted=job.settings.small_ranker == "always"))
    is_small = any(record.shipped for record in records)
    return [teachers_ranker(big, shipped=not is_small), *records]


def teachers_ranker(graph: RankerGraph, *, shipped: bool) -> RankerRecord:
    """The record of what nothing is held against but its own PyTorch module."""
    return _whole(graph, {}, [], shipped=shipped, why="")


def _values(kept: Mapping[str, Figure], big: RankerGraph, small: RankerGraph) -> dict[str, float]:
    """What the gates look at."""
    return {task: figure.mean for task, figure in kept.items()} | {"speed": big.ms_batch1 / small.ms_batch1}


def _record(
    small: RankerGraph, kept: dict[str, Figure], checks: Sequence[Check], unknown: Sequence[str], *, is_wanted: bool
) -> RankerRecord:
    failed = [str(check) for check in checks if not check.has_passed]
    failed += [f"{task} could not be measured" for task in unknown]
    why = "; ".join(failed) or ", ".join(f"{check} (at least {check.threshold})" for check in checks)
    return _whole(small, kept, checks, shipped=is_wanted or not failed, why=why)


def _whole(
    graph: RankerGraph, kept: dict[str, Figure], checks: Sequence[Check], *, shipped: bool, why: str
) -> RankerRecord:
    """What was measured of the graph, and every gate with its value."""
    judged = (at_least(check.gate, check.value, check.threshold) for check in checks)
    gates = (ranker_parity(graph.parity), *judged)
    return RankerRecord(**asdict(graph), file=graph.file, retained=kept, shipped=shipped, why=why, gates=gates)
