"""Stage `verify`: every variant by the server's own tokenizer and sessions, against the teacher and the baselines."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate import fidelity
from swiftrec.export.evaluate.assemble import assemble
from swiftrec.export.evaluate.backends import encode_here, served_rank
from swiftrec.export.evaluate.baseline_gate import (
    print_table,
    require_baselines,
    require_cold,
    require_interactions,
    require_teacher,
)
from swiftrec.export.evaluate.compare import Evaluation
from swiftrec.export.evaluate.context import Ground
from swiftrec.export.evaluate.metrics import Figure
from swiftrec.export.evaluate.ranks import RecordedRanks
from swiftrec.export.evaluate.recommender import Subject
from swiftrec.export.evaluate.record import FROZEN, RECORD, TEACHER
from swiftrec.export.report.tables import show
from swiftrec.export.stages.runner import Job
from swiftrec.export.variants import Variant, graphs
from swiftrec.server.catalogue.catalogue import VECTORS
from swiftrec.server.models.bundle import RANKER
from swiftrec.server.models.tokenizer import Tokenizer


def run(job: Job, out: Path) -> None:
    """Write quality.json, ranks.npz, and vectors.npy: the item vectors of the measured model, float32 [items, d].

    Raises:
        GateError: the teacher or the default finds new items worse than the untouched checkpoint, no variant passed
            the gates, or --require-baselines is not kept; no bundle is written.
    """
    require_interactions(job)
    if not Dataset.load(job.folder("data")).histories:
        fidelity.run(job, out)
        return
    variants = graphs(job.folder("quantise"))
    alive = [(variant, path) for variant, path in variants if not variant.refused]
    probes: dict[str, Figure] = {}
    with job.progress("evaluate", 3 + len(alive)) as step:
        ground = Ground.load(job)
        evaluation = Evaluation(ground)
        step()
        evaluation.add_baselines()
        if ground.frozen:
            _probe(ground, FROZEN, ground.frozen, probes)
        step()
        evaluation.add_parts()
        evaluation.add(TEACHER, ground.teacher)
        require_teacher(job, evaluation)
        _probe(ground, TEACHER, ground.teacher, probes)
        step()
        where: dict[str, str] = {}
        for variant, path in alive:
            if served := _served(job, ground, variant, path):
                subject, device = served
                evaluation.add(variant.name, subject, next(iter(where), ""))
                where[variant.name] = device
                _probe(ground, variant.name, subject, probes)
            step()
    try:
        quality = assemble(job, evaluation, [variant for variant, _ in variants], probes, where)
    except GateError:
        print_table(job, evaluation)
        raise
    show(job.console, quality)
    default = quality.default["cpu"].name
    require_cold(job, evaluation, default)
    require_baselines(job, evaluation, [*quality.comparisons, *quality.group_comparisons])
    np.save(out / VECTORS, ground.teacher.items, allow_pickle=False)
    RecordedRanks.of(evaluation.answers, ground.tasks.warm, ground.seed).save(out)
    (out / RECORD).write_text(quality.model_dump_json(indent=1))


def _served(job: Job, ground: Ground, variant: Variant, path: Path) -> tuple[Subject, str] | None:
    """A variant behind the ranker and the catalogue, as the server runs them, and the device; None if none can."""
    plan, source, items = job.settings.plan, job.folder("onnx"), ground.teacher.items
    tokenizer = Tokenizer.load(source / "tokenizer.json", plan.max_tokens)
    found = encode_here(path, tokenizer, variant.device)
    if not found:
        return None
    encode, device = found
    rank, retrieval = served_rank(source / RANKER, items.shape[1]), ground.teacher.retrieval
    return Subject(encode, rank, items, plan.max_history, retrieval=retrieval), device


def _probe(ground: Ground, name: str, subject: Subject, into: dict[str, Figure]) -> None:
    figure = ground.probes(subject)
    if figure:
        into[name] = figure
