"""Stage `data`: data set, training texts and checkpoint in one folder."""

from __future__ import annotations

import json
from pathlib import Path

from export.data import movielens, tables
from export.data.checkpoint import copy_checkpoint
from export.data.fetch import RECBOLE, fetch
from export.data.phrases import write_texts
from export.data.split import leave_one_out
from export.stage import Job


def run(job: Job, out: Path) -> None:
    """Write items.jsonl, histories.npz, dataset.json, texts.json, checkpoint/ and sources.json."""
    settings = job.settings
    downloads = settings.artifacts / ".downloads"
    facts: dict[str, str] = {}
    texts: list[str] = []
    with job.progress("fetch and read", 4) as step:
        if settings.data:
            collected = tables.read(settings.data, out, skip=settings.on_error == "skip")
            dataset, texts, facts = collected.dataset, collected.texts, collected.facts.rows()
        else:
            dataset = movielens.read(fetch(RECBOLE, downloads))
        step()
        leave_one_out(dataset)  # refuses a data set that no stage after this one could use
        dataset.save(out)
        step()
        write_texts(dataset, settings.seed, texts).save(out)
        step()
        source, licence = copy_checkpoint(settings.checkpoint, downloads, out / "checkpoint")
        step()
    if facts and facts["skipped"] != "nothing":
        job.console.print(f"  skipped: {facts['skipped']}", markup=False)
    sources = {
        "data": {"source": dataset.source, "licence": dataset.licence, **facts},
        "checkpoint": {"source": source, "licence": licence},
    }
    (out / "sources.json").write_text(json.dumps(sources, indent=1))
