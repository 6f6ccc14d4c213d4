"""Stage `data`: data set, training texts and checkpoint in one folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from swiftrec.export.checkpoints.checkpoint import Checkpoint, locate, write_bert
from swiftrec.export.checkpoints.head import Head
from swiftrec.export.checkpoints.sentence_transformers import is_bi_encoder, remarks
from swiftrec.export.config import ExportSettings
from swiftrec.export.data import loader, movielens
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.issues import FEW_ITEMS, Issues
from swiftrec.export.data.order import UNORDERED
from swiftrec.export.data.part_files import has_table
from swiftrec.export.data.profile import NOTHING, RATINGS, REPEATED, in_words
from swiftrec.export.data.scan import MIN_ITEMS, LoadOptions
from swiftrec.export.data.split import leave_one_out
from swiftrec.export.data.text_variants import unseen, write_texts
from swiftrec.export.evaluate.checkpoint_equivalence import require_same_vectors
from swiftrec.export.evaluate.checkpoint_library import load_in_library
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.fetch import RECBOLE, fetch
from swiftrec.export.job import Job


@dataclass(frozen=True, slots=True)
class _LoadedData:
    dataset: Dataset
    texts: list[str]
    profile: dict[str, str]
    warnings: tuple[str, ...] = ()
    repeated: int = 0


def run(job: Job, target: Path) -> None:
    """Write the data set (`Dataset.save`), its texts (`Texts.save`), checkpoint/ and sources.json.

    The checkpoint is written first, so that one that cannot be used is refused before the data are read.
    """
    settings, max_tokens = job.settings, job.settings.plan.max_tokens
    with job.progress("fetch and read", 4) as step, tempfile.TemporaryDirectory(dir=target) as scratch:
        checkpoint = locate(settings.checkpoint, settings.artifacts / ".downloads", Path(scratch))
        adopt = _is_adopted(settings, checkpoint)
        family = write_verified(checkpoint, target / "checkpoint", adopt=adopt, max_tokens=max_tokens)
        step()
        loaded = _load(settings, target, adopt=adopt)
        loaded.dataset.save(target)
        step()
        texts = write_texts(loaded.dataset, settings.seed, loaded.texts, target)
        texts.save(target)
        step()
        if adopt and not loaded.dataset.histories:
            model = load_in_library(checkpoint.folder, checkpoint.kind, max_tokens)
            Reference.make(model, unseen(texts, settings.seed), loaded.dataset.items).save(target)
        step()
    use = "adopted as it is" if adopt else "fine-tuned here"
    _print_remarks(job, checkpoint, loaded)
    job.console.print(f"  checkpoint: {checkpoint.kind} ({family}), {use}", markup=False)
    sources = {
        "data": {"source": loaded.dataset.source, "licence": loaded.dataset.licence, **loaded.profile},
        "checkpoint": {
            "source": checkpoint.source,
            "licence": checkpoint.licence,
            "kind": checkpoint.kind,
            "family": family,
            "use": use,
        },
    }
    (target / "sources.json").write_text(json.dumps(sources, indent=1))


def write_verified(checkpoint: Checkpoint, target: Path, *, adopt: bool, max_tokens: int) -> str:
    """Write the checkpoint as a BERT that gives the same vectors as the checkpoint's library; return its family.

    Raises:
        CheckpointError: it cannot be written, or some text gets another vector.
    """
    family = write_bert(checkpoint, target, adopt=adopt, max_tokens=max_tokens)
    require_same_vectors(checkpoint.folder, checkpoint.kind, Head.load(target), target, max_tokens)
    return family


def _print_remarks(job: Job, checkpoint: Checkpoint, loaded: _LoadedData) -> None:
    """Print what a user should know about the data and the checkpoint."""
    lines = [f"warning: {warning}" for warning in loaded.warnings]
    if is_bi_encoder(checkpoint.folder):
        lines += remarks(checkpoint.folder, job.settings.plan.max_tokens)
    if loaded.dataset.ratings:
        lines.append(RATINGS)
    if loaded.repeated:
        lines.append(f"{REPEATED}: {loaded.profile[REPEATED]}")
    if (skipped := loaded.profile.get("skipped", NOTHING)) != NOTHING:
        lines.append(f"skipped: {skipped}")
    for line in lines:
        job.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _load(settings: ExportSettings, target: Path, *, adopt: bool) -> _LoadedData:
    """Read the data for the checkpoint in `target`; an adopted classifier supports only the items among its labels."""
    skip, head = settings.on_error == "skip", Head.load(target / "checkpoint")
    labels = frozenset(head.labels) if head is not None and head.labels else None
    if settings.data is None:
        return _movielens(settings, labels, skip=skip)
    options = LoadOptions(
        needs_interactions=not adopt,
        labels=labels,
        repeats=settings.repeats,
        order=settings.order,
        columns=settings.column,
    )
    loaded = loader.load(settings.data, target, options, skip=skip)
    if loaded.dataset.histories:
        leave_one_out(loaded.dataset, repeats=settings.repeats)  # refuses data that no later stage could use
    profile = loaded.profile
    warnings = (*profile.warnings, *profile.caveats)
    return _LoadedData(loaded.dataset, loaded.texts, profile.rows(), warnings, profile.repeated)


def _movielens(settings: ExportSettings, labels: Collection[str] | None, *, skip: bool) -> _LoadedData:
    issues = Issues()
    dataset = movielens.read(fetch(RECBOLE, settings.artifacts / ".downloads"), issues, labels)
    if len(dataset.items) < MIN_ITEMS:
        issues.add(FEW_ITEMS, "MovieLens-100K", f"{len(dataset.items)} items are left")
    issues.require_usable(skip=skip)
    dataset = dataset.without_order() if settings.order == UNORDERED else dataset
    return _LoadedData(dataset, [], {"skipped": in_words(issues.skipped)} if issues.skipped else {})


def _is_adopted(settings: ExportSettings, checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is exported without training.

    A classifier always is; a bi-encoder is if there is no data for fine-tuning, or by `--adopt always`.
    """
    if checkpoint.kind == "encoder" or settings.adopt == "never":
        return False
    has_interactions = settings.data is None or has_table(settings.data, "interactions")
    return checkpoint.kind == "classifier" or settings.adopt == "always" or not has_interactions
