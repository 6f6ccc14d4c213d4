"""Stage `package`: the verified files as one versioned bundle, written aside and renamed when whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from swiftrec.export.blend.record import BlendRecord
from swiftrec.export.data.dataset import Dataset, Item
from swiftrec.export.data.repeats import EXCLUDE
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.final_record import EXPECTED, FINAL, POPULARITY, FinalRecord
from swiftrec.export.evaluate.metrics import common
from swiftrec.export.evaluate.record import RECORD, Quality
from swiftrec.export.gates import Outcome, packaged, require
from swiftrec.export.report.html import write_page
from swiftrec.export.report.model_card import write_card
from swiftrec.export.report.triton_repository import SOURCE, write_repository
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import Job
from swiftrec.export.variants import graphs
from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS
from swiftrec.server.domain import Recommendation, Request, TextEvent
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import (
    FORMAT,
    MANIFEST,
    RANKER,
    SENTENCES,
    Bundle,
    Manifest,
    file_hash,
    load_bundle,
    versions,
)
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.tuning.machine import machine

_ANSWER_S = 120.0
_TOOLS = ("torch", "transformers", "optimum", "onnx", "onnxruntime", "tokenizers", "numpy")


def run(job: Job, out: Path) -> None:
    """Write artifacts/<name>/<version>/ and, in the stage's folder, bundle.json with its place."""
    home = job.settings.bundle
    key = job.key(next(s for s in STAGES if s.name == "package"))
    folder = _existing(home, key) or _write(job, home, key)
    repository = write_repository(load_bundle(folder), home / f"triton-{folder.name}")
    (out / "bundle.json").write_text(json.dumps({"folder": str(folder)}))
    job.also_wrote(folder / MANIFEST)
    job.also_wrote(repository / SOURCE)
    job.console.print(f"  bundle: {folder}", markup=False, soft_wrap=True)
    for line in _quality(job).warnings:
        job.console.print(f"  {line}", markup=False, soft_wrap=True)


def check_answers(bundle: Bundle, expected: list[dict[str, list[str]]]) -> Outcome:
    """Ask the bundle through the server's whole pipeline; its top ten must be the evaluated ones. Return the gate.

    Raises:
        GateError: they differ in more than the order of near ties can explain.
    """
    with Recommender(bundle, EngineOptions()) as engine:
        requests = [Request(history=tuple(map(TextEvent, row["texts"]))) for row in expected]
        answers = engine.recommend(requests)
    shares = []
    for answer, row in zip(answers, expected, strict=True):
        if not isinstance(answer, Recommendation):
            raise GateError(f"the packaged bundle failed on a request: {answer}")
        shares.append(common([item.id for item, _ in answer.items], row["top"]))
    outcome = packaged(float(np.mean(shares)))
    require("the packaged bundle", outcome)
    return outcome


def _quality(job: Job) -> Quality:
    """The record of stage `verify`."""
    return Quality.model_validate_json((job.folder("verify") / RECORD).read_text())


def _existing(home: Path, key: str) -> Path | None:
    """The newest version if it was written from the same inputs (a kill between rename and record leaves one)."""
    for number in sorted(versions(home))[-1:]:
        try:
            if load_bundle(home / str(number)).manifest.export_key == key:
                return home / str(number)
        except BundleError:
            return None
    return None


def _write(job: Job, home: Path, key: str) -> Path:
    number = max(versions(home), default=0) + 1
    scratch = home / f".{number}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        final = FinalRecord.model_validate_json((job.folder("final") / FINAL).read_text())
        quality = _quality(job).model_copy(update={"final": final})
        _fill(job, scratch, quality)
        manifest = _manifest(job, scratch, number, key, quality)
        _seal(scratch, manifest)
        expected = json.loads((job.folder("final") / EXPECTED).read_text())
        quality = quality.model_copy(update={"packaged": check_answers(load_bundle(scratch), expected)})
        manifest = manifest.model_copy(update={"quality": quality.model_dump(mode="json")})
        write_card(scratch / "MODEL_CARD.md", manifest, quality)
        write_page(scratch / "report.html", manifest, quality)
        _seal(scratch, manifest)
        scratch.replace(home / str(number))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return home / str(number)


def _seal(scratch: Path, manifest: Manifest) -> None:
    """Write the manifest with the hash of every other file."""
    files = {p.name: file_hash(p) for p in sorted(scratch.iterdir()) if p.name != MANIFEST}
    sealed = manifest.model_copy(update={"files": files}).sealed()
    (scratch / MANIFEST).write_text(sealed.model_dump_json(indent=1))


def _fill(job: Job, scratch: Path, quality: Quality) -> None:
    """Copy graphs, tokenizer, vectors and tables, write the item table."""
    shutil.copyfile(job.folder("onnx") / "tokenizer.json", scratch / "tokenizer.json")
    shutil.copyfile(job.folder("final") / RANKER, scratch / RANKER)
    for stage in ("blend", "final"):  # words, then the memory of all events in the place of the measured one
        for source in sorted(job.folder(stage).glob("*.npy")):
            shutil.copyfile(source, scratch / source.name)
    paths = {variant.name: path for variant, path in graphs(job.folder("quantise"))}
    for record in quality.shipped:
        shutil.copyfile(paths[record.variant.name], scratch / record.variant.file)
    popularity = json.loads((job.folder("final") / POPULARITY).read_text())
    write_items(Dataset.load(job.folder("data")).items, popularity, scratch / ITEMS)


def write_items(items: Sequence[Item], popularity: Sequence[int], path: Path) -> None:
    """Write the table of items that the server reads.

    Args:
        items: of the data set.
        popularity: number of events of each.
        path: of the table.
    """
    with path.open("w", encoding="utf-8") as file:
        for item, count in zip(items, popularity, strict=True):
            row = {"id": item.id, "title": item.title, "text": item.text, "attributes": item.attributes}
            file.write(json.dumps(row | {"popularity": count}, ensure_ascii=False) + "\n")


def _width(vectors: Path) -> int:
    """Length of the rows of an array on disk."""
    return int(np.load(vectors, mmap_mode="r", allow_pickle=False).shape[1])


def _manifest(job: Job, scratch: Path, number: int, key: str, quality: Quality) -> Manifest:
    plan, blend = job.settings.plan, BlendRecord.load(job.folder("blend"))
    return Manifest(
        format=FORMAT,
        name=job.settings.name,
        version=number,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        export_key=key,
        dimensions=_width(scratch / VECTORS),
        sentence_dimensions=_width(scratch / SENTENCES) if (scratch / SENTENCES).exists() else 0,
        max_tokens=plan.max_tokens,
        max_history=plan.max_history,
        variants={record.variant.name: record.variant.file for record in quality.shipped},
        default={device: default.name for device, default in quality.default.items()},
        quality=quality.model_dump(mode="json"),
        sources=json.loads((job.folder("data") / "sources.json").read_text()),
        tools={name: installed(name) for name in _TOOLS},
        machine=machine(),
        files={},
        exclude_history=job.settings.repeats == EXCLUDE,
        blend=blend.rows,
        same_item=blend.same_item,
    )
