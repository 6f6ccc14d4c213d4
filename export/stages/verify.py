"""Stage `verify`: every variant, run by the server's tokenizer and sessions, compared with teacher and baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.backends import encode_here, served_rank
from swiftrec.export.evaluate.context import EvaluationContext
from swiftrec.export.evaluate.evaluation import Evaluation
from swiftrec.export.evaluate.fidelity import agreement
from swiftrec.export.evaluate.ranks import RecordedRanks
from swiftrec.export.evaluate.recommender import EvaluatedRecommender
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.job import Job
from swiftrec.export.models.teacher_files import load_item_vectors
from swiftrec.export.report.tables import show
from swiftrec.export.schema.quality import FROZEN, QUALITY_FILE, TEACHER, Quality
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.schema.variant import Variant, load_graphs
from swiftrec.export.stages.baseline_gate import (
    print_results,
    require_baselines,
    require_cold,
    require_interactions,
    require_teacher,
)
from swiftrec.export.stages.evaluation_context import load_context
from swiftrec.export.stages.quality_record import build_agreement, build_quality
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.tokenizer import Tokenizer

Graphs = Sequence[tuple[Variant, Path]]


def run(job: Job, output: Path) -> None:
    """Write quality.json and ranks.npz.

    Without interactions there is no ranks.npz, and the variants are compared with the checkpoint's own library.

    Raises:
        GateError: the teacher or the default is worse on new items than the untouched checkpoint, no variant passed
            the gates, or a baseline required by --require-baselines is better; no bundle is written.
    """
    require_interactions(job)
    graphs = load_graphs(job.folder("quantise"))
    has_interactions = bool(Dataset.load(job.folder("data")).histories)
    quality = _evaluate(job, graphs, output) if has_interactions else _compare_with_library(job, graphs)
    (output / QUALITY_FILE).write_text(quality.model_dump_json(indent=1))


def _evaluate(job: Job, graphs: Graphs, output: Path) -> Quality:
    """Everything that is measured with interactions; writes the ranks."""
    evaluation, probes, devices = _run_tasks(job, graphs)
    try:
        quality = build_quality(job, evaluation, [variant for variant, _ in graphs], probes, devices)
    except GateError:
        print_results(job, evaluation)
        raise
    show(job.console, quality)
    require_cold(job, evaluation, quality.default["cpu"].name)
    require_baselines(job, evaluation, [*quality.comparisons, *quality.group_comparisons])
    context = evaluation.context
    RecordedRanks.of(evaluation.results, context.tasks.warm, context.seed).save(output)
    return quality


def _run_tasks(job: Job, graphs: Graphs) -> tuple[Evaluation, dict[str, MeanInterval], dict[str, str]]:
    """Run every recommender on every task; the results, the probes' figures, and the device of each variant."""
    runnable = [(variant, path) for variant, path in graphs if not variant.refused]
    devices: dict[str, str] = {}
    with job.progress("evaluate", 3 + len(runnable)) as step:
        context = load_context(job)
        evaluation = Evaluation(context)
        step()
        evaluation.add_baselines()
        step()
        evaluation.add_parts()
        evaluation.add(TEACHER, context.teacher)
        require_teacher(job, evaluation)
        recommenders = {TEACHER: context.teacher} | ({FROZEN: context.frozen} if context.frozen else {})
        step()
        for variant, path in runnable:
            if opened := _open(job, context, variant, path):
                recommenders[variant.name], device = opened
                evaluation.add(variant.name, recommenders[variant.name], next(iter(devices), ""))
                devices[variant.name] = device
            step()
        probes = {name: context.probes(recommender) for name, recommender in recommenders.items()}
    return evaluation, {name: figure for name, figure in probes.items() if figure}, devices


def _open(
    job: Job, context: EvaluationContext, variant: Variant, path: Path
) -> tuple[EvaluatedRecommender, str] | None:
    """A variant with the shipped ranker and catalogue, as the server runs them, and its device; None if none can."""
    plan, source, items = job.settings.plan, job.folder("onnx"), context.teacher.items
    opened = encode_here(path, Tokenizer.load(source / "tokenizer.json", plan.max_tokens), variant.device)
    if not opened:
        return None
    encode, device = opened
    rank = served_rank(source / RANKER, items.shape[1])
    return EvaluatedRecommender(encode, rank, items, plan.max_history, retrieval=context.teacher.retrieval), device


def _compare_with_library(job: Job, graphs: Graphs) -> Quality:
    """Everything that is measured without interactions.

    Raises:
        GateError: no variant agrees with the checkpoint.
    """
    reference = Reference.load(job.folder("data"))
    tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
    runnable = [(variant, path) for variant, path in graphs if not variant.refused]
    items = load_item_vectors(job.folder("finetune"))
    agreements, devices = dict[str, dict[str, MeanInterval]](), dict[str, str]()
    with job.progress(f"compare with {reference.library}", len(runnable)) as step:
        for variant, path in runnable:
            if opened := encode_here(path, tokenizer, variant.device):
                encode, devices[variant.name] = opened
                figures = agreement(reference, encode(reference.texts), items, job.settings.seed)
                agreements[variant.name] = figures
                words = ", ".join(f"{gate} {figure}" for gate, figure in figures.items())
                job.console.print(f"  {variant.name}: {words}", markup=False)
            step()
    return build_agreement(job, [variant for variant, _ in graphs], agreements, devices, reference)
