"""MODEL_CARD.md: what the bundle is, what it was made from and what was measured."""

from __future__ import annotations

from pathlib import Path

from export.evaluate.table import markdown
from server.models.bundle import Manifest


def write_card(path: Path, manifest: Manifest) -> None:
    """Write the card from the manifest."""
    quality = manifest.quality
    sources = "\n".join(f"- {kind}: {s['source']}. Licence: {s['licence']}." for kind, s in manifest.sources.items())
    speeds = "\n".join(
        f"| {v['name']} | {v['megabytes']} | {v['texts_per_s_core']} | {v['ms_batch1']} "
        f"| {v['speedup_vs_teacher_pytorch']} | {v['cosine']:.5f} | {v['batch_invariance']:.1e} "
        f"| {v['refused'] or v['exception'] or 'kept'} |"
        for v in quality["speed"]
    )
    path.write_text(
        f"""# {manifest.name}, version {manifest.version}

A text recommender: a distilled BERT encoder ({manifest.dimensions} dimensions, at most {manifest.max_tokens} tokens), a
transformer ranker (the last {manifest.max_history} events) and a catalogue with vectors.

## Made from
{sources}

## Quality
NDCG@10 on ids and text, precision@10 on query; {quality["protocol"]}. Parity with PyTorch: {quality["parity"]:.1e}.
Top-10 as the teacher's: {quality["top10_overlap"]}.

{markdown(quality["tasks"])}

## Encoder variants
Measured on {manifest.machine}, one thread, texts of 3 to 60 words. Default on CPU: {manifest.default["cpu"]}.

| variant | MB | texts/s | ms at batch 1 | x PyTorch teacher | cosine | batch dependence | |
|---|---|---|---|---|---|---|---|
{speeds}

Never run on a GPU.
""",
        encoding="utf-8",
    )
