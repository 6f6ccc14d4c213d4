"""Stage `data`: data set, training texts and checkpoint in one folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from swiftrec.export.checkpoints.checkpoint import Checkpoint, locate, write_bert
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.checkpoints.original import open_original
from swiftrec.export.checkpoints.reference import Reference
from swiftrec.export.checkpoints.sentence_transformers import is_bi_encoder, remarks
from swiftrec.export.config import ExportSettings
from swiftrec.export.data import loader, movielens
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.fetch import RECBOLE, fetch
from swiftrec.export.data.issues import FEW_ITEMS, Mistakes
from swiftrec.export.data.order import UNORDERED
from swiftrec.export.data.part_files import has_table
from swiftrec.export.data.profile import NOTHING, RATINGS, REPEATED, in_words
from swiftrec.export.data.split import leave_one_out
from swiftrec.export.data.text_variants import unseen, write_texts
from swiftrec.export.stages.runner import Job


@dataclass(frozen=True, slots=True)
class _Read:
    dataset: Dataset
    texts: list[str]
    facts: dict[str, str]
    warnings: tuple[str, ...] = ()
    repeated: int = 0


def run(job: Job, out: Path) -> None:
    """Write the data set (`Dataset.save`), its texts (`Texts.save`), checkpoint/ and sources.json.

    The checkpoint comes first: what cannot be used is refused before data are read.
    """
    settings = job.settings
    downloads, max_tokens = settings.artifacts / ".downloads", settings.plan.max_tokens
    with job.progress("fetch and read", 4) as step, tempfile.TemporaryDirectory(dir=out) as scratch:
        checkpoint = locate(settings.checkpoint, downloads, Path(scratch))
        adopt = _is_adopted(settings, checkpoint)
        family = write_bert(checkpoint, out / "checkpoint", adopt=adopt, max_tokens=max_tokens)
        step()
        read = _read(settings, out, adopt=adopt)
        read.dataset.save(out)
        step()
        texts = write_texts(read.dataset, settings.seed, read.texts, out)
        texts.save(out)
        step()
        if adopt and not read.dataset.histories:
            original = open_original(checkpoint.folder, checkpoint.kind, max_tokens)
            Reference.of(original, unseen(texts, settings.seed), read.dataset.items).save(out)
        step()
    for warning in read.warnings:
        job.console.print(f"  warning: {warning}", markup=False, highlight=False, soft_wrap=True)
    for remark in remarks(checkpoint.folder, max_tokens) if is_bi_encoder(checkpoint.folder) else ():
        job.console.print(f"  {remark}", markup=False, soft_wrap=True)
    if read.dataset.ratings:
        job.console.print(f"  {RATINGS}", markup=False, soft_wrap=True)
    if read.repeated:
        job.console.print(f"  {REPEATED}: {read.facts[REPEATED]}", markup=False, soft_wrap=True)
    if read.facts.get("skipped", NOTHING) != NOTHING:
        job.console.print(f"  skipped: {read.facts['skipped']}", markup=False)
    use = "adopted as it is" if adopt else "fine-tuned here"
    job.console.print(f"  checkpoint: {checkpoint.kind} ({family}), {use}", markup=False)
    sources = {
        "data": {"source": read.dataset.source, "licence": read.dataset.licence, **read.facts},
        "checkpoint": {
            "source": checkpoint.source,
            "licence": checkpoint.licence,
            "kind": checkpoint.kind,
            "family": family,
            "use": use,
        },
    }
    (out / "sources.json").write_text(json.dumps(sources, indent=1))


def _read(settings: ExportSettings, out: Path, *, adopt: bool) -> _Read:
    """Read the data for the checkpoint in `out`; an adopted classifier has rows for its labels only."""
    skip, head = settings.on_error == "skip", Head.load(out / "checkpoint")
    labels = frozenset(head.labels) if head is not None and head.labels else None
    if settings.data is None:
        return _movielens(settings, labels, skip=skip)
    collected = loader.read(
        settings.data,
        out,
        skip=skip,
        needs_interactions=not adopt,
        labels=labels,
        repeats=settings.repeats,
        order=settings.order,
        columns=settings.column,
    )
    if collected.dataset.histories:
        # refuses a data set that no stage after this one could use
        leave_one_out(collected.dataset, repeats=settings.repeats)
    facts = collected.facts
    return _Read(collected.dataset, collected.texts, facts.rows(), (*facts.warnings, *facts.caveats), facts.repeated)


def _movielens(settings: ExportSettings, labels: Collection[str] | None, *, skip: bool) -> _Read:
    mistakes = Mistakes()
    dataset = movielens.read(fetch(RECBOLE, settings.artifacts / ".downloads"), mistakes, labels)
    if len(dataset.items) < loader.MIN_ITEMS:
        mistakes.add(FEW_ITEMS, "MovieLens-100K", f"{len(dataset.items)} items are left")
    mistakes.settle(skip=skip)
    dataset = dataset.without_order() if settings.order == UNORDERED else dataset
    return _Read(dataset, [], {"skipped": in_words(mistakes.skipped)} if mistakes.skipped else {})


def _is_adopted(settings: ExportSettings, checkpoint: Checkpoint) -> bool:
    """A classifier is always; a bi-encoder where there is nothing to fine-tune it on, or when it is asked for."""
    if checkpoint.kind == "encoder" or settings.adopt == "never":
        return False
    has_interactions = settings.data is None or has_table(settings.data, "interactions")
    return checkpoint.kind == "classifier" or settings.adopt == "always" or not has_interactions
