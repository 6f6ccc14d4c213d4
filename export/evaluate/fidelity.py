"""Proof without interactions: each variant must encode texts, and rank items, as the checkpoint's own library does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from swiftrec.export.evaluate.assemble import assemble_agreement
from swiftrec.export.evaluate.backends import encode_here, teacher_items
from swiftrec.export.evaluate.metrics import Figure, best, common, figure
from swiftrec.export.evaluate.recommender import Vectors
from swiftrec.export.evaluate.record import RECORD
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.stages.runner import Job
from swiftrec.export.variants import graphs
from swiftrec.server.catalogue.catalogue import VECTORS
from swiftrec.server.models.tokenizer import Tokenizer


def run(job: Job, out: Path) -> None:
    """Write quality.json and vectors.npy, as `verify` does where there are interactions.

    Raises:
        GateError: no variant agrees with the teacher; no bundle is written.
    """
    reference = Reference.load(job.folder("data"))
    tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
    variants = graphs(job.folder("quantise"))
    alive = [(variant, path) for variant, path in variants if not variant.refused]
    items = teacher_items(job.folder("finetune"))
    with job.progress(f"compare with {reference.library}", len(alive)) as step:
        kept, where = {}, dict[str, str]()
        for variant, path in alive:
            if found := encode_here(path, tokenizer, variant.device):
                encode, where[variant.name] = found
                measured = agreement(reference, encode(reference.texts), items, job.settings.seed)
                kept[variant.name] = measured
                words = ", ".join(f"{gate} {value}" for gate, value in measured.items())
                job.console.print(f"  {variant.name}: {words}", markup=False)
            step()
    quality = assemble_agreement(job, [variant for variant, _ in variants], kept, where, reference)
    np.save(out / VECTORS, items, allow_pickle=False)
    (out / RECORD).write_text(quality.model_dump_json(indent=1))


def agreement(reference: Reference, variant: Vectors, items: Vectors, seed: int) -> dict[str, Figure]:
    """How alike a variant and a reference are: "cosine" of their vectors, "overlap" of their ten best items.

    Args:
        reference: what the checkpoint's own library says of some texts.
        variant: unit vectors of the same texts, [texts, d].
        items: item vectors of the whole catalogue, [items, d].
        seed: of the intervals.
    """
    compared = items[reference.items].T
    tops = zip(reference.top, (best(vector @ compared) for vector in variant), strict=True)
    same = [common(wanted.tolist(), found.tolist()) for wanted, found in tops]
    return {"cosine": figure((reference.vectors * variant).sum(1).tolist(), seed), "overlap": figure(same, seed)}
