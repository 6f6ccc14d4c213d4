"""MODEL_CARD.md: what the bundle is, what it was made from and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.evaluate.table import markdown
from server.models.bundle import Manifest


def _parity(quality: dict[str, Any]) -> str:
    return f" Parity with PyTorch: {quality['parity']:.1e}." if "parity" in quality else ""


def write_card(path: Path, manifest: Manifest) -> None:
    """Write the card from the manifest."""
    quality = manifest.quality
    sources = "\n".join(f"- {kind}: {s['source']}. Licence: {s['licence']}." for kind, s in manifest.sources.items())
    speeds = "\n".join(
        f"| {c['name']} | {c['megabytes']} | {c['texts_per_s']} | {c['ms_batch1']} | {c['speedup']} "
        f"| {c['cosine']:.5f} | {c['invariance']:.1e} | {c['reason'] or 'kept'} |"
        for c in quality["speed"]["candidates"]
    )
    path.write_text(
        f"""# {manifest.name}, version {manifest.version}

A text recommender: a distilled BERT encoder ({manifest.dimensions} dimensions, at most {manifest.max_tokens} tokens), a
transformer ranker (the last {manifest.max_history} events) and a catalogue with vectors.

## Made from
{sources}

## Quality
NDCG@10 on ids and text, precision@10 on query; {quality["protocol"]}.{_parity(quality)}
Top-10 as the teacher's: {quality["top10_overlap"]}.

{markdown(quality["tasks"])}

## Encoder variants
Measured on {manifest.machine}, one thread, texts of the catalogue. Default on CPU: {manifest.default["cpu"]}.

| candidate | MB | texts/s | ms at batch 1 | x fp32 | cosine | batch dependence | |
|---|---|---|---|---|---|---|---|
{speeds}

Never run on a GPU.
""",
        encoding="utf-8",
    )
