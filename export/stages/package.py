"""Stage `package`: the verified files as one versioned bundle, written to a scratch folder and renamed when whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from swiftrec.export.data.dataset import Dataset, DatasetItem
from swiftrec.export.data.repeats import EXCLUDE
from swiftrec.export.data.text_variants import Texts, TextVariant
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.examples import best_titles, choose_requests
from swiftrec.export.evaluate.metrics import common
from swiftrec.export.gates import Gate, packaged, require
from swiftrec.export.job import Job
from swiftrec.export.report.render import write_card, write_report
from swiftrec.export.report.triton_repository import SOURCE, write_repository
from swiftrec.export.schema.blend import BlendRecord
from swiftrec.export.schema.final import EXPECTED, FINAL, POPULARITY, FinalRecord
from swiftrec.export.schema.quality import QUALITY_FILE, Example, Quality
from swiftrec.export.schema.variant import load_graphs
from swiftrec.export.stages.evaluation_context import load_frozen
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import stage_key
from swiftrec.server.catalogue.catalogue import ITEMS, VECTORS
from swiftrec.server.domain import Recommendation, Request, TextEvent
from swiftrec.server.errors import BundleError
from swiftrec.server.models.bundle import (
    FORMAT,
    MANIFEST,
    RANKER,
    SENTENCES,
    Manifest,
    file_hash,
    load_bundle,
    versions,
)
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.tuning.machine import machine

_TOOLS = ("torch", "transformers", "optimum", "onnx", "onnxruntime", "tokenizers", "numpy")


def run(job: Job, output: Path) -> None:
    """Write artifacts/<name>/<version>/ and, in the stage's folder, bundle.json with its place."""
    home = job.settings.bundle
    key = stage_key(job, next(stage for stage in STAGES if stage.name == "package"))
    folder = _existing(home, key) or _write(job, home, key)
    repository = write_repository(load_bundle(folder), home / f"triton-{folder.name}")
    (output / "bundle.json").write_text(json.dumps({"folder": str(folder)}))
    job.also_wrote(folder / MANIFEST)
    job.also_wrote(repository / SOURCE)
    job.console.print(f"  bundle: {folder}", markup=False, soft_wrap=True)
    for line in _quality(job).warnings:
        job.console.print(f"  {line}", markup=False, soft_wrap=True)


def check_results(engine: Recommender, expected: list[dict[str, list[str]]]) -> Gate:
    """Send the expected requests through the server's pipeline; its top tens must be those of stage `final`.

    Raises:
        GateError: they differ in more than the order of near ties can explain.
    """
    requests = [Request(history=tuple(map(TextEvent, row["texts"]))) for row in expected]
    tops = [[item.id for item, _ in response.items] for response in recommend(engine, requests)]
    shares = [common(top, row["top"]) for top, row in zip(tops, expected, strict=True)]
    gate = packaged(float(np.mean(shares)))
    require("the packaged bundle", gate)
    return gate


def recommend(engine: Recommender, requests: list[Request]) -> list[Recommendation]:
    """The responses of the server's pipeline.

    Raises:
        GateError: a request failed.
    """
    responses = []
    for response in engine.recommend(requests):
        if not isinstance(response, Recommendation):
            raise GateError(f"the packaged bundle failed on a request: {response}")
        responses.append(response)
    return responses


def make_examples(job: Job, engine: Recommender, expected: list[dict[str, list[str]]]) -> list[Example]:
    """Requests of the data set with the items of the bundle and of the untrained encoder."""
    items = Dataset.load(job.folder("data")).items
    popularity = json.loads((job.folder("final") / POPULARITY).read_text())
    chosen = choose_requests((row["texts"] for row in expected), items, popularity)
    responses = recommend(engine, [example.request for example in chosen])
    untrained, titles = load_frozen(job, len(items)), Texts.load(job.folder("data")).variants[TextVariant.TITLE]
    return [
        Example(
            history=list(example.history),
            query=example.query,
            items=[item.title for item, _ in response.items],
            untrained=best_titles(untrained, example, titles) if untrained else [],
        )
        for example, response in zip(chosen, responses, strict=True)
    ]


def _quality(job: Job) -> Quality:
    """The record of stage `verify`."""
    return Quality.model_validate_json((job.folder("verify") / QUALITY_FILE).read_text())


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
        with Recommender(load_bundle(scratch), EngineOptions()) as engine:
            update = {"packaged": check_results(engine, expected), "examples": make_examples(job, engine, expected)}
        quality = quality.model_copy(update=update)
        manifest = manifest.model_copy(update={"quality": quality.model_dump(mode="json")})
        write_card(scratch / "MODEL_CARD.md", manifest, quality)
        write_report(scratch / "report.html", manifest, quality)
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
    paths = {variant.name: path for variant, path in load_graphs(job.folder("quantise"))}
    for record in quality.shipped:
        shutil.copyfile(paths[record.name], scratch / record.file)
    popularity = json.loads((job.folder("final") / POPULARITY).read_text())
    write_items(Dataset.load(job.folder("data")).items, popularity, scratch / ITEMS)


def write_items(items: Sequence[DatasetItem], popularity: Sequence[int], path: Path) -> None:
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
        variants={record.name: record.file for record in quality.shipped},
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
