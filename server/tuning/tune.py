"""`swiftrec tune`: measures sessions x threads x token budgets for a bundle on this machine."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.models.device import DEVICES, DeviceName
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender
from swiftrec.server.tuning.machine import machine
from swiftrec.server.tuning.tuned import Trial, Tuned, tuned_path

_BUDGETS = (128, 256, 512, 1_024, 2_048, 4_096)
_TEXTS, _STEP_TEXTS = 1_920, 64  # texts encoded in one run, and in one step of it
_TIE_SHARE = 0.98  # of the best throughput counts as equal; then smaller batches win, for their lower latency


class TuneSettings(BaseSettings):
    """Find the best sessions, threads and batch budget for a bundle on this machine; stored next to its folder."""

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_", cli_prog_name="swiftrec tune", cli_kebab_case=True, cli_implicit_flags=True
    )

    bundle: Path = Field(description="bundle folder, or a folder of versions (1, 2, ...), of which the highest is used")
    device: DeviceName = Field("cpu", description="where the models run")
    variant: str | None = Field(
        None, description="encoder variant, as in the server's --variant; default: that of the bundle"
    )
    seconds: float = Field(1.0, gt=0, le=600, description="length of one measurement")
    repeats: int = Field(3, ge=1, le=100, description="measurements of each setting, taken in turn")


def tune(settings: TuneSettings) -> Path:
    """Measure all settings in turn, `repeats` times; print the results and write the best.

    Raises:
        BundleError, ProviderError: the bundle cannot be run.
    """
    bundle = load_bundle(settings.bundle)
    settings_tried = list(_candidates(settings))
    rates: list[list[float]] = [[] for _ in settings_tried]
    total = settings.repeats * len(settings_tried)
    for n, (index, options) in enumerate(list(enumerate(settings_tried)) * settings.repeats):
        rates[index].append(_texts_per_s(bundle, options, settings.seconds))
        left_s = (total - n - 1) * (settings.seconds + 0.5)
        sys.stderr.write(
            f"\r[{n + 1}/{total}] {_describe(options)}: {rates[index][-1]:.0f} texts/s, {left_s:.0f} s left "
        )
    sys.stderr.write("\n")
    trials = [_trial(options, rate) for options, rate in zip(settings_tried, rates, strict=True)]
    path = tuned_path(bundle.folder)
    variant = bundle.variant(settings.device, settings.variant)
    result = Tuned(machine=machine(), device=settings.device, variant=variant, best=choose(trials), trials=trials)
    scratch = path.with_suffix(".partial")
    scratch.write_text(result.model_dump_json(indent=1), encoding="utf-8")
    scratch.replace(path)
    sys.stdout.write(_table(result))
    sys.stdout.write(
        f"written to {path}; the server uses it for {variant} on this machine unless flags say otherwise\n"
    )
    return path


def choose(trials: list[Trial]) -> Trial:
    """The smallest batch, then the fewest threads, among those within 2 % of the best median."""
    best = max(trial.texts_per_s for trial in trials)
    good = [trial for trial in trials if trial.texts_per_s >= _TIE_SHARE * best]
    return min(good, key=lambda trial: (trial.tokens, trial.threads, trial.sessions))


def _candidates(settings: TuneSettings) -> Iterator[EngineOptions]:
    cores = len(os.sched_getaffinity(0)) if DEVICES[settings.device].uses_cores else 1
    counts = sorted({1, cores, *(2**n for n in range(cores.bit_length()) if 2**n <= cores)})
    for sessions, threads, tokens in itertools.product(counts, counts, _BUDGETS):
        if sessions * threads <= cores:
            limits = Limits(tokens=tokens, budget_s=3_600.0)
            yield EngineOptions(settings.device, settings.variant, sessions, threads, limits, cache_bytes=0)


def _texts_per_s(bundle: Bundle, options: EngineOptions, seconds: float) -> float:
    """Encode texts of mixed length, in steps as in the worker."""
    with Recommender(bundle, options) as engine:
        words = [word for item in engine.catalogue.items for word in item.text.split()]
        rng = random.Random(7)  # noqa: S311 (the same texts for every setting)
        texts = [" ".join(rng.choices(words, k=rng.randint(3, 60))) for _ in range(_TEXTS)]
        steps = itertools.cycle([texts[n : n + _STEP_TEXTS] for n in range(0, _TEXTS, _STEP_TEXTS)])
        started, encoded = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            encoded += len(engine.encode(next(steps)))
        return encoded / (time.perf_counter() - started)


def _trial(options: EngineOptions, rates: list[float]) -> Trial:
    return Trial(
        sessions=options.sessions,
        threads=options.threads,
        tokens=options.limits.tokens,
        texts_per_s=round(statistics.median(rates), 1),
        lowest=round(min(rates), 1),
        highest=round(max(rates), 1),
    )


def _describe(options: EngineOptions) -> str:
    return f"{options.sessions} sessions x {options.threads} threads, {options.limits.tokens} tokens"


def _table(result: Tuned) -> str:
    lines = [result.machine, "sessions threads tokens  texts/s  (lowest to highest)"]
    for trial in sorted(result.trials, key=lambda t: -t.texts_per_s):
        mark = "  <- chosen" if trial == result.best else ""
        lines.append(
            f"{trial.sessions:8d} {trial.threads:7d} {trial.tokens:6d} {trial.texts_per_s:8.0f}"
            f"  ({trial.lowest:.0f} to {trial.highest:.0f}){mark}"
        )
    return "\n".join(lines) + "\n"
