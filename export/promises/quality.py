"""What the project promises about an export's recommendations, judged by the figures of the default variant.

Some promises are figures on MovieLens-100K by leave-one-out, with one of two presets; with another data set, protocol
or preset they are not judged. All others are distances from yardsticks, which every data set has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.order import BY_TIME
from swiftrec.export.data.repeats import EXCLUDE
from swiftrec.export.evaluate.baselines import POPULARITY, TRANSITIONS
from swiftrec.export.evaluate.comparisons import NAMED
from swiftrec.export.evaluate.metrics import random_ndcg
from swiftrec.export.evaluate.tasks import FIRST, IN_TEN
from swiftrec.export.gates import MIN_COLD_CASES
from swiftrec.export.schema.comparison import Comparison
from swiftrec.export.schema.quality import FROZEN, TEACHER, Quality
from swiftrec.export.schema.record import MeanInterval
from swiftrec.promise import Promise

_IDS_BY_PRESET: Mapping[str, float] = MappingProxyType({"quick": 0.122, "full": 0.135})
_TEXT = 0.10
_COLD_BEFORE, _COLD_RISE = 0.0149, 1.25  # at the common share of new items, before a score had parts
_NAMED_SHARES = (("title", FIRST, 0.97), ("title", IN_TEN, 0.99), ("typos", IN_TEN, 0.85))
_OF_POPULARITY = 3.0


def promise_of(name: str, bound: float, figure: MeanInterval | None, why: str = "") -> Promise:
    """A promise about a figure's mean."""
    if figure is None:
        return Promise(name, bound, [], why=why)
    return Promise(name, bound, [figure.mean], interval=(figure.low, figure.high))


def quality_promises(quality: Quality, settings: ExportSettings, items: int) -> Iterator[Promise]:
    """Every promise about the recommendations of a bundle with a catalogue of `items`."""
    name = quality.default_on_cpu.name
    tasks, shares = quality.tasks.get(name, {}), quality.shares.get(name, {})
    yield from _of_movielens(quality, settings)
    for task, what, bound in _NAMED_SHARES:
        share = shares.get(task, {}).get(what)
        yield promise_of(f"default, share of {task} requests whose item is {what}", bound, share, _why(quality, task))
    for task, yardstick in (*NAMED, ("cold", FROZEN)):
        yield _named(quality, task, yardstick)
    yield _teacher(quality)
    popular = quality.tasks.get(POPULARITY, {}).get("cold")
    yield _over_popularity(tasks.get("cold"), popular, random_ndcg(items))
    yield from map(_distance, quality.comparisons)
    yield _groups(quality)


def _of_movielens(quality: Quality, settings: ExportSettings) -> Iterator[Promise]:
    """NDCG@10 on MovieLens; not judged on other data, whose figures cannot be compared."""
    name = quality.default_on_cpu.name
    tasks, pair = quality.tasks.get(name, {}), quality.cold_pairs.get(name)
    is_movielens = settings.data is None and (quality.protocol, quality.order) == ("leave-one-out", BY_TIME)
    is_judged = is_movielens and quality.repeats == EXCLUDE and settings.preset in _IDS_BY_PRESET
    why = "" if is_judged else "swiftrec export --preset full, then swiftrec export targets --preset full"
    figures: dict[str, tuple[float, MeanInterval | None]] = {
        "ids": (_IDS_BY_PRESET.get(settings.preset, _IDS_BY_PRESET["full"]), tasks.get("ids")),
        "text": (_TEXT, tasks.get("text")),
        "cold at the same share of new items": (_COLD_RISE * _COLD_BEFORE, pair.cold if pair else None),
    }
    for task, (bound, figure) in figures.items():
        yield promise_of(f"default on MovieLens, NDCG@10 on {task}", bound, figure if is_judged else None, why)


def _why(quality: Quality, task: str) -> str:
    """Why a bundle has no figure on that task."""
    if task in quality.absent:
        return f"the data set cannot have it, {quality.absent[task]}"
    if task == "cold" and quality.teacher.unmeasured:
        return f"fewer than {MIN_COLD_CASES} cold cases, or too many items for the frozen encoder"
    return "export again"


def _named(quality: Quality, task: str, yardstick: str) -> Promise:
    """Met if the default's mean is not below that of a yardstick, and above transitions by more than chance."""
    comparison = next((c for c in quality.named_comparisons if (c.task, c.baseline) == (task, yardstick)), None)
    level = " at the same share of new items" * (comparison is not None and comparison.is_level)
    name = f"default, NDCG@10 on {task}{level} minus {yardstick}"
    if comparison is None:
        return Promise(name, 0.0, [], why=_why(quality, task))
    difference = comparison.difference
    if yardstick != TRANSITIONS:
        return promise_of(name, 0.0, difference)
    interval = (difference.low, difference.high)
    return Promise(f"{name}, lower end", 0.0, [difference.low], interval=interval)


def _distance(comparison: Comparison) -> Promise:
    """Met if the default is above the best yardstick of a task, or not below it by more than chance."""
    name = f"default, upper end of NDCG@10 on {comparison.task} minus {comparison.baseline}"
    difference = comparison.difference
    return Promise(name, 0.0, [difference.high], interval=(difference.low, difference.high))


def _over_popularity(cold: MeanInterval | None, popular: MeanInterval | None, chance: float) -> Promise:
    """Three times popularity as training sees it, or three times chance if that is more."""
    name = "default, NDCG@10 cold, at least 3x popularity"
    if popular is None:
        return Promise(name, 0.0, [])
    name += f" as training sees it ({popular.mean:.4f}) or chance ({chance:.4f})"
    return promise_of(name, _OF_POPULARITY * max(popular.mean, chance), cold)


def _teacher(quality: Quality) -> Promise:
    """Met if the baseline is not above the teacher's interval."""
    own, other = (quality.tasks.get(name, {}).get("ids") for name in (TEACHER, TRANSITIONS))
    name = "teacher, upper end of NDCG@10 on ids, at least that of transitions"
    if own is None or other is None:
        return Promise(name, 0.0, [])
    return Promise(name, other.mean, [own.high], interval=(own.low, own.high))


def _groups(quality: Quality) -> Promise:
    """Met if no group of users has a lower mean than with popularity."""
    compared = quality.group_comparisons
    below = sum(comparison.difference.mean < 0 for comparison in compared)
    lost = sum(comparison.loses for comparison in compared)
    name = f"means of groups of users below popularity, of {len(compared)} (beyond the interval: {lost})"
    return Promise(name, 0, [below], at_most=True)
