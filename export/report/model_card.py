"""MODEL_CARD.md: what the bundle is, what it was made from, what was measured where, and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swiftrec.export.data.repeats import EXCLUDE
from swiftrec.export.evaluate.record import TEACHER, Quality
from swiftrec.export.evaluate.tasks import present
from swiftrec.export.report.ladder import remarks, served_lines
from swiftrec.export.report.tables import COLD_COLUMNS, share_rows
from swiftrec.export.variants import Variant
from swiftrec.server.models.bundle import Manifest
from swiftrec.server.parts import PARTS


def write_card(path: Path, manifest: Manifest, quality: Quality) -> None:
    """Write the card."""
    measured = [_tasks(quality), _lists(quality), _groups(quality)] if quality.tasks else [_agreement()]
    if quality.cold_pairs:
        measured.insert(1, _cold(quality))
    if quality.blend.groups:
        measured.insert(1, _parts(quality))
    measured = [*_served(quality), *measured]
    parts = [_head(manifest), _ladder(quality), *measured, _limits(quality)]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _head(manifest: Manifest) -> str:
    sources = "\n".join(f"- {kind}: {s['source']}. Licence: {s['licence']}." for kind, s in manifest.sources.items())
    return f"""# {manifest.name}, version {manifest.version}

A text recommender: distilled encoders ({manifest.dimensions} dimensions, at most {manifest.max_tokens} tokens), a
ranker (the last {manifest.max_history} events) and a catalogue with vectors. `report.html` shows the same
figures as plots.

## Made from
{sources}"""


def _ladder(quality: Quality) -> str:
    header = ("variant", "layers", "width", "precision", "device", "MB", "texts/s", "ms at batch 1", "x teacher")
    rows = [
        [
            record.variant.name + ("" if record.shipped else " (not shipped)"),
            *(record.variant.layers, record.variant.hidden, _precision(record.variant), record.variant.device),
            *(record.variant.megabytes, record.variant.texts_per_s_core or "-", record.variant.ms_batch1 or "-"),
            record.variant.speedup_vs_teacher_pytorch or "-",
            "yes" if record.on_front else "",
            f"{record.variant.batch_invariance:.0e}",
        ]
        for record in quality.variants
    ]
    body = markdown([*header, "Pareto", "batch dependence"], rows)
    words = "\n".join(f"- {line}" for line in remarks(quality))
    return f"""## Encoder variants
Measured on {quality.machine}, one thread, CPU time with the tokenizer, texts of the catalogue joined to 3 to 60 words
and sorted by length; the teacher in PyTorch (eager, fp32, padded to the longest of the batch) in the same run.

{body}

{words}"""


def _precision(variant: Variant) -> str:
    return f"{variant.precision} {variant.form}".strip()


def _agreement() -> str:
    return """## Quality
The data has no interactions, so nothing says what users want: each variant is compared with the checkpoint, run by the
library that it was made with, by the cosine of their vectors of the same texts and by the items that both have among
the best ten."""


def _served(quality: Quality) -> list[str]:
    """Which metrics are of which model; nothing where only one was there."""
    lines = served_lines(quality)
    return ["\n".join(["## What was measured, and what is served", *lines])] if lines else []


def _tasks(quality: Quality) -> str:
    shown = present(quality.tasks)
    rows = [[name, *(row.get(task, "") for task in shown)] for name, row in quality.tasks.items()]
    masked = "items of the history may be recommended again"
    if quality.repeats == EXCLUDE:
        masked = "items of the history left out"
    probes = ", ".join(f"{name} {figure}" for name, figure in quality.probes.items())
    return f"""## Quality
NDCG@10 over the whole catalogue, {masked}, ties to the earlier item, 95 % bootstrap intervals.
Protocol: {quality.protocol}; {quality.cases["warm"]} users, and {quality.cases["cold"]} cases for {quality.cold_items}
cold items whose events training never saw.

{markdown(["", *shown], rows)}

- ids: the history as item ids. text: the same history given only as titles. noisy: these with typos, dropped and
  swapped words. query: no history, a few words that describe the wanted item. cold: behind a history of ids an item is
  wanted that training never saw; its vector in the catalogue follows from its text alone, whatever the variant.
- Without a history, too: title: the exact title of an item. typos: the same with one or two typing errors. tags: a tag
  that is not in the item's text, or informative words of its text. paraphrase: "something like" a title; wanted is what
  a user took after that item. conditions: two or three attribute values at once. negation: one value and not another.
  Training never reads the wordings of these, exact titles apart. For this data the tasks are: {", ".join(shown)}.
- "frozen encoder" is the checkpoint as it came; "+ popularity" adds .1 log(1 + events of the item) to its cosine.
- "popularity, cold counted" knows how often each cold item was taken, which no recommender could know.
- Share of the top ten that carries the attribute which a phrase asks for: {probes or "no phrases"}.

{_shares(quality)}"""


def _shares(quality: Quality) -> str:
    """How often the wanted item is first or among ten, where the record has it."""
    if not quality.shares:
        return ""
    names, rows = share_rows(quality.shares)
    return markdown(["", *names], [[subject, *(f or "" for f in figures)] for subject, figures in rows])


def _parts(quality: Quality) -> str:
    rows = [
        [
            *(str(group), group.cases, f"{group.likelihood:.3f}"),
            *(f"{group.contributions[part]:+.3f}" if part in group.contributions else "" for part in PARTS),
        ]
        for group in quality.blend.groups
    ]
    return f"""## Parts of a score
A score adds the ranker, the memory of what people took next or beside it, the match of texts by meaning, the match of
words, and popularity. Their weights, by kind of request, were fitted on the events that validate and are in
`manifest.json` (`blend`). Mean log-likelihood of what was wanted, and how much of it each part brings: the rest without
it is so much lower.

{markdown(["requests with", "cases", "log-likelihood", *PARTS], rows)}"""


def _cold(quality: Quality) -> str:
    rows = [
        [name, f"{p.own_share:.2%}", p.own_cold, p.own_ids, f"{p.share:.2%}", p.cold, p.ids]
        for name, p in quality.cold_pairs.items()
    ]
    return f"""## New items
A recommender could look good on cold by filling every list with new items. So one offset on the scores of all new items
brings their share of the lists of ids to {quality.cold_share:.2%}, which is their share of the catalogue, for each
recommender alike. NDCG@10 on cold and ids as ranked, then at that share.

{markdown(["", *COLD_COLUMNS], rows)}"""


def _lists(quality: Quality) -> str:
    header = ["", "task", "Recall@10", "MRR", "coverage", "Gini", "diversity in a list", "novelty (bits)", "head"]
    rows = [
        [
            *(name, of.task, of.recall, of.mrr, f"{of.exposure.coverage:.3f}", f"{of.exposure.gini:.3f}"),
            *(f"{of.exposure.diversity:.3f}", f"{of.exposure.novelty:.2f}", f"{of.exposure.by_popularity[0]:.3f}"),
        ]
        for name, of in quality.lists.items()
    ]
    return f"""## Lists
"head" is the share of what is shown that falls on the most popular tenth of the catalogue; of what users took it is
{quality.wanted_by_popularity[0]:.3f}.

{markdown(header, rows)}"""


def _groups(quality: Quality) -> str:
    subjects = [name for name, groups in quality.groups.items() if groups]
    if not subjects:
        return "## Groups of users\nNo group of users has enough of them."
    first = quality.groups[subjects[0]]
    by_subject = {name: {(g.attribute, g.group): g.ndcg for g in quality.groups[name]} for name in subjects}
    rows = [
        [g.attribute, g.group, g.cases, *(by_subject[name][g.attribute, g.group] for name in subjects)] for g in first
    ]
    return f"## Groups of users\nNDCG@10.\n\n{markdown(['', 'group', 'users', *subjects], rows)}"


def _limits(quality: Quality) -> str:
    seen = [v.variant.name for v in quality.shipped if v.measured_on not in ("", "cpu")]
    gpu = f"Measured on a GPU: {', '.join(seen)}." if seen else "Nothing here was run on a GPU."
    below = [v.variant.name for v in quality.shipped if v.variant.exception or not all(g.passed for g in v.gates)]
    below = [*([TEACHER] if quality.teacher.exception else []), *below]
    lossy = f"\n- Below a gate, shipped on demand (--allow-lossy): {', '.join(below)}." if below else ""
    cold = (
        "\n- The measured model was trained without the cold items' events, as the served one is without those of items"
        " that have none: their vectors come from a map of their texts, and most of what makes an item popular is in no"
        " text."
    )
    cold = cold if quality.cold_items else ""
    return f"""## Limits
- {gpu}{lossy}
- One training run with one seed{": the intervals are over users, not over runs" if quality.tasks else ""}.{cold}"""


def markdown(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
