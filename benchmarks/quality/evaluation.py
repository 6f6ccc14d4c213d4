"""What a finished bundle was evaluated on, from its export's stages: the split, the test cases, and our own ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.quality.exchange import LibraryProblem
from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.repeats import EXCLUDE, counted
from swiftrec.export.data.split import Protocol, Split
from swiftrec.export.errors import ExportError
from swiftrec.export.evaluate.ranks import RANKS, RecordedRanks
from swiftrec.export.evaluate.tasks import sample_cases
from swiftrec.export.job import Job
from swiftrec.export.schema.variant import Variant
from swiftrec.export.train.pretrained import split_of
from swiftrec.server.arrays import Positions
from swiftrec.server.models.bundle import Bundle, load_bundle

TASK = "ids"
_CPU = "cpu"
_DATA, _RECORD = "histories.npz", "stage.json"
_PROTOCOLS = get_args(Protocol)
_UNREADABLE = (OSError, ValueError, KeyError, BadZipFile)


@dataclass(frozen=True, slots=True)
class BundleEvaluation:
    """The test of task *ids*: `targets` (int64 [cases]) and `ranks`, those of our own recommenders by name.

    `ranks` (int32 [cases], 0 is best) has the baselines, the teacher and the `default` variant. `seed` is that of the
    export, with which its intervals are drawn.
    """

    bundle: BundleId
    protocol: str
    seed: int
    default: str
    problem: LibraryProblem
    targets: Positions
    ranks: Mapping[str, NDArray[np.int32]]


def load_evaluation(path: Path) -> BundleEvaluation:
    """The evaluation of the bundle at `path` (a bundle, or a folder of versions).

    Raises:
        RuntimeError: the stages of its export are missing, broken, or those of another export.
    """
    bundle = load_bundle(path)
    stages = bundle.folder.parent.parent / ".stages" / bundle.manifest.name
    quality, default = bundle.manifest.quality, bundle.manifest.default.get(_CPU, "")
    if quality.get("protocol") not in _PROTOCOLS:
        raise RuntimeError(f"{bundle.folder} was exported without interactions: give a bundle that was tested on some")
    _require_stages(stages, bundle)
    recorded = _recorded(stages / "verify", default, bundle)
    settings = ExportSettings(
        name=bundle.manifest.name,
        artifacts=bundle.folder.parent.parent,
        protocol=quality["protocol"],
        repeats=quality.get("repeats", EXCLUDE),  # bundles written before the field exclude
        seed=recorded.seed,
        _cli_parse_args=[],
    )
    parts, items = _parts(Job(settings), bundle)
    cases = sample_cases(parts.warm, items, settings.seed)
    if not (np.array_equal(cases.users, recorded.users) and np.array_equal(cases.targets, recorded.targets)):
        raise RuntimeError(f"{stages / 'verify' / RANKS} is of other cases than the data in {stages}: {_again(bundle)}")
    other_variants = {Variant.model_validate(record).name for record in quality["variants"]} - {default}
    return BundleEvaluation(
        bundle=BundleId.of(bundle.manifest),
        protocol=settings.protocol,
        seed=settings.seed,
        default=default,
        problem=LibraryProblem(items, cases.repeats == EXCLUDE, parts.train, parts.valid, cases.histories),
        targets=cases.targets,
        ranks={name: row[TASK] for name, row in recorded.ranks.items() if TASK in row and name not in other_variants},
    )


def _parts(job: Job, bundle: Bundle) -> tuple[Split, int]:
    """The export's split of its data, and the size of the catalogue."""
    try:
        dataset = counted(Dataset.load(job.folder("data")), job.settings.repeats)
        return split_of(job, dataset), len(dataset.items)
    except (*_UNREADABLE, ExportError) as error:
        raise RuntimeError(f"{job.folder('data')} cannot be split ({error}): {_again(bundle)}") from None


def _require_stages(stages: Path, bundle: Bundle) -> None:
    """The stages are there, and are those of the export that wrote the bundle."""
    record = stages / "package" / _RECORD
    for file in (stages / "data" / _DATA, record, stages / "verify" / RANKS):
        if not file.exists():
            raise RuntimeError(f"{file} is missing, which the export of {bundle.folder} leaves there: {_again(bundle)}")
    try:
        key = json.loads(record.read_text())["key"]
    except (*_UNREADABLE, TypeError):
        raise RuntimeError(f"{record} cannot be read: {_again(bundle)}") from None
    if key != bundle.manifest.export_key:
        raise RuntimeError(
            f"{stages} is of another export than {bundle.folder}: give the newest version, or {_again(bundle)}"
        )


def _recorded(folder: Path, default: str, bundle: Bundle) -> RecordedRanks:
    try:
        recorded = RecordedRanks.load(folder)
    except _UNREADABLE:
        raise RuntimeError(f"{folder / RANKS} cannot be read: {_again(bundle)}") from None
    if TASK not in recorded.ranks.get(default, {}):
        raise RuntimeError(f"{folder / RANKS} has no ranks of {default or 'a default'} on {TASK}: {_again(bundle)}")
    return recorded


def _again(bundle: Bundle) -> str:
    return f"run `swiftrec export --name {bundle.manifest.name}` with the flags that the bundle was made with"
