"""The results of `swiftrec tune` for a bundle on this machine, and engine options based on them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from swiftrec.server.batching.scheduler import Limits
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.models.device import DEVICES
from swiftrec.server.parts import parts_off
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.tuning.machine import machine

_log = logging.getLogger(__name__)


class Trial(BaseModel):
    """One setting and its throughput: the median, the lowest and the highest of the repeats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: int
    threads: int
    tokens: int
    texts_per_s: float
    lowest: float
    highest: float


class Tuned(BaseModel):
    """`<version>.tuned.json` next to the bundle's folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    device: str
    variant: str
    best: Trial
    trials: list[Trial]


def tuned_path(folder: Path) -> Path:
    """The path of the result for the bundle in `folder`."""
    return folder.with_name(f"{folder.name}.tuned.json")


def read_tuned(folder: Path, device: str, variant: str) -> Tuned | None:
    """The result for a bundle, if it is from this machine, device and variant (its full name)."""
    path = tuned_path(folder)
    try:
        tuned = Tuned.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        _log.warning("%s cannot be read and is ignored: run swiftrec tune again", path)
        return None
    return tuned if (tuned.machine, tuned.device, tuned.variant) == (machine(), device, variant) else None


def engine_options(settings: ServerSettings, bundle: Bundle | None = None) -> EngineOptions:
    """The engine options from the settings; choices left open are taken from the tuned result, else from defaults.

    Raises:
        BundleError: the bundle has no such variant.
    """
    tuned = _tuned_for(bundle, settings) if bundle else None
    best = tuned.best if tuned else None
    default_tokens = DEVICES[settings.device].batch_tokens
    return EngineOptions(
        device=settings.device,
        variant=settings.variant,
        sessions=settings.sessions or (best.sessions if best else 0),
        threads=settings.threads or (best.threads if best else 1),
        limits=replace(
            queue_limits(settings), tokens=settings.max_batch_tokens or (best.tokens if best else default_tokens)
        ),
        cache_bytes=settings.cache_mb * 2**20,
        index=settings.index,
        parts_off=parts_off(settings.parts),
    )


def queue_limits(settings: ServerSettings) -> Limits:
    """The limits of a step and of the queue."""
    return Limits(
        batch_size=settings.max_batch_size,
        queue_requests=settings.max_queue_requests,
        queue_tokens=settings.max_queue_tokens,
        budget_s=settings.queue_budget_ms / 1e3,
        aging_s=settings.aging_ms / 1e3,
    )


def _tuned_for(bundle: Bundle, settings: ServerSettings) -> Tuned | None:
    return read_tuned(bundle.folder, settings.device, bundle.variant(settings.device, settings.variant))
