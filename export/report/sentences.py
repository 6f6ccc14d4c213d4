"""What a bundle's record says in sentences: the headline, and the remarks on what was measured and what was not."""

from __future__ import annotations

from collections.abc import Mapping

from swiftrec.export.data.order import BY_TIME, in_words
from swiftrec.export.evaluate.tasks import SHARED_TASKS, TASKS
from swiftrec.export.gates import EVERY_TASK, QUALITY
from swiftrec.export.schema.models import TeacherRecord
from swiftrec.export.schema.quality import FROZEN, FROZEN_POPULAR, TEACHER, Quality
from swiftrec.export.schema.record import MeanInterval
from swiftrec.export.schema.variant import Variant

_HEADLINE_TASKS = ("text", "query")
LOSSY = "shipped all the same (--allow-lossy)"


def headline(quality: Quality) -> str:
    """What is served by default, how much faster than the PyTorch teacher, and what is lost."""
    default = quality.default_on_cpu
    kind = f"a BERT of {default.layers} layers" if default.layers else "a static encoder without transformer layers"
    return " ".join(
        [f"{default.name} is served by default: {kind} in {default.precision}.", *_speed(quality), _loss(default)]
    )


def _speed(quality: Quality) -> list[str]:
    default, teacher = quality.default_on_cpu, quality.teacher
    if not (default.is_timed and default.speedup_vs_teacher_pytorch):
        return []
    return [
        f"On one core it encodes {default.texts_per_s_core:,.0f} texts/s, "
        f"{default.speedup_vs_teacher_pytorch:,.1f} times as many as the PyTorch teacher, and it has "
        f"{default.megabytes:,.1f} MB instead of {teacher.megabytes:,.1f} MB."
    ]


def _loss(default: Variant) -> str:
    """What the default keeps of the teacher's NDCG@10, or without interactions of the checkpoint's results."""
    if overlap := default.agreement.get("overlap"):
        return f"It has {_percent(overlap)} of the checkpoint's ten best items."
    shares = {task: share for task, share in default.retained.items() if task not in SHARED_TASKS}
    if not shares:
        return "What it loses was not measured."
    least = min(shares, key=lambda task: shares[task].mean)
    shown = {task: shares[task] for task in (*_HEADLINE_TASKS, least) if task in shares}
    kept = ", ".join(f"{_percent(share)} on {task}{' (the lowest)' * (task == least)}" for task, share in shown.items())
    return f"It keeps {kept} of the teacher's NDCG@10: {_verdict(shares)}."


def _verdict(shares: Mapping[str, MeanInterval]) -> str:
    """Which losses are more than chance, and on which tasks the interval includes both none and one that matters."""
    lost = [task for task, share in shares.items() if share.high < 1]
    unclear = [task for task, share in shares.items() if share.low < QUALITY.shipped[EVERY_TASK] and share.high >= 1]
    sentences = [f"what is lost on {', '.join(lost)} is more than chance"] * bool(lost)
    sentences += [f"on {', '.join(unclear)} there are too few cases to tell"] * bool(unclear)
    return "; ".join(sentences) or "no loss is more than chance"


def _percent(figure: MeanInterval) -> str:
    return f"{figure.mean:.1%} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def served_lines(quality: Quality) -> list[str]:
    """Which figures are of which model, and how similar their results are; empty if there is only one model."""
    final = quality.final
    return [line for line in (final.figures, final.likeness) if line] if final else []


def remarks(quality: Quality) -> list[str]:
    """Everything to know beside the tables: order, lost comparisons, gates, shares of the teacher's, defaults."""
    lines = [f"Order of a user's interactions: {in_words(quality.order)}."] if quality.order != BY_TIME else []
    lines += [*quality.warnings, *absent_tasks(quality), *teacher_lines(quality.teacher), *_cold_lines(quality)]
    lines += [line for variant in quality.variants if (line := _kept(variant))]
    lines += [line for variant in quality.variants if (line := _rounds(variant))]
    lines += [f"{variant.name}: {variant.remark}" for variant in quality.variants if variant.remark]
    lines += failure_lines(quality)
    lines += [f"Default on {device}: {default.why}" for device, default in quality.default.items()]
    return [*lines, *_bundle_lines(quality), *_other_protocol(quality)]


def absent_tasks(quality: Quality) -> list[str]:
    """A sentence for each task that the data set cannot have."""
    return [f"No task {task}: {why}." for task, why in quality.absent.items()]


def failure_lines(quality: Quality) -> list[str]:
    """The variants and the teacher that failed a gate, with the gates."""
    lines = [f"{variant.name} is {variant.state}: {variant.failed}" for variant in quality.variants if variant.failed]
    return lines + [f"teacher is {LOSSY}: {quality.teacher.exception}"] * bool(quality.teacher.exception)


def below_a_gate(quality: Quality) -> list[str]:
    """Names of what is shipped although it failed a gate."""
    names = [variant.name for variant in quality.shipped if variant.failed]
    return [TEACHER] * bool(quality.teacher.exception) + names


def teacher_lines(teacher: TeacherRecord) -> list[str]:
    """Its gates, and those that could not be measured."""
    lines = [f"teacher: {g.gate} {g.value:.3f} at the upper end (at least {g.threshold})" for g in teacher.gates]
    return lines + ([f"teacher: {teacher.remark}"] if teacher.remark else [])


def _cold_lines(quality: Quality) -> list[str]:
    """*cold* and *ids* as a pair, of the untouched encoder, the teacher and the default."""
    shown = (FROZEN, FROZEN_POPULAR, TEACHER, quality.default["cpu"].name)
    return [f"{name}: {quality.cold_pairs[name]}" for name in shown if name in quality.cold_pairs]


def _kept(variant: Variant) -> str:
    """What a variant keeps of the teacher's quality, or how far it agrees with the checkpoint."""
    if variant.retained:
        kept = ", ".join(f"{task} {variant.retained[task]}" for task in TASKS[1:] if task in variant.retained)
        overlap = f"; {variant.overlap:.3f} of its ten best items" if variant.overlap is not None else ""
        return f"{variant.name}, share of the teacher's NDCG@10: {kept}{overlap}"
    if variant.agreement:
        kept = ", ".join(f"{gate} {figure}" for gate, figure in variant.agreement.items())
        return f"{variant.name} agrees with the original checkpoint: {kept}"
    gates = ", ".join(f"{gate.gate} {gate.value:.3f}" for gate in variant.gates)
    return f"{variant.name}: {gates}" if gates else ""


def _rounds(variant: Variant) -> str:
    """The spread of the speed measurement's rounds; empty if they were not kept."""
    if variant.texts_per_s_range is None or variant.speedup_range is None:
        return ""
    (slowest, fastest), (least, highest) = variant.texts_per_s_range, variant.speedup_range
    speed = f"{variant.texts_per_s_core:,.0f} texts/s [{slowest:,.0f}, {fastest:,.0f}]"
    ratio = f"{variant.speedup_vs_teacher_pytorch:.1f}x the PyTorch teacher [{least:.1f}, {highest:.1f}]"
    return f"{variant.name}: {speed}, {ratio}: median and [lowest, highest] round"


def _bundle_lines(quality: Quality) -> list[str]:
    """The students' vocabulary, the ranker, and the check of the packaged bundle."""
    lines = []
    if quality.pieces and quality.pieces.kept < quality.pieces.total:
        lines.append(f"The students have {quality.pieces} (--vocabulary).")
    lines += [f"{ranker}." for ranker in quality.rankers]
    if quality.packaged:
        lines.append(f"The packaged bundle in the server's pipeline: {quality.packaged}.")
    return lines


def _other_protocol(quality: Quality) -> list[str]:
    other = quality.other
    figures = ", ".join(f"{name} {figure}" for name, figure in other.ndcg.items())
    lines = [f"Other protocol ({other.protocol}, {other.cases} users), NDCG@10 on ids: {figures}."] if figures else []
    return [*lines, other.remark]
