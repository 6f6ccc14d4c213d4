"""The order of a run: every target once a round, the floor before and after each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swiftrec.benchmarks.measure import floor as measure_floor
from swiftrec.benchmarks.peers.asked import Asked
from swiftrec.benchmarks.peers.ceiling import client_costs
from swiftrec.benchmarks.peers.family import PeerError, StartError, free_ports, launched
from swiftrec.benchmarks.peers.install import HOME, InstallError, python_of
from swiftrec.benchmarks.peers.measure import Figures, Plan, is_answering, measure
from swiftrec.benchmarks.peers.reference import Scores
from swiftrec.benchmarks.peers.results import Entry, Results
from swiftrec.benchmarks.peers.targets import SEPARATOR, Target
from swiftrec.benchmarks.peers.wire import connected
from swiftrec.benchmarks.process import SERVER_CORE, load_cores
from swiftrec.server.models.bundle import Bundle

_START_S = 90.0
_SPARE_PORTS = 3
_PARTS = "ranker"  # of the score: what the peers' job is, too
_PATIENCE_MS = 30_000  # as the client's


@dataclass(frozen=True, slots=True)
class Setting:
    """What all targets share."""

    bundle: Bundle
    variant: str
    texts: Sequence[str]
    tokens: Sequence[int]
    reference: Scores
    plan: Plan
    floor_texts: int
    best_batch: int
    do_peers_flush: bool = False  # denormals, which ONNX Runtime does not unless it is told to

    @property
    def encoder(self) -> Path:
        """The graph that everybody runs."""
        return self.bundle.encoder("cpu", self.variant)


def install_all(chosen: Sequence[Target], results: Results) -> None:
    """Install the peers that are missing; those that cannot be are skipped."""
    for name in dict.fromkeys(target.name for target in chosen if not target.is_ours):
        try:
            python_of(name)
        except InstallError as error:
            results.skipped[name] = str(error)


def run_rounds(setting: Setting, chosen: Sequence[Target], repeats: int, results: Results) -> Iterator[str]:
    """Measure into `results`; gives a line of progress after each target. A target that failed is not tried again."""
    results.client = results.client or client_costs(setting.texts, setting.tokens, setting.reference, setting.plan)
    before: float | None = None
    for number in range(1, repeats + 1):
        for target in chosen:
            label = f"{setting.variant}{SEPARATOR}{target.label}"
            if target.name in results.skipped or label in results.died:
                continue
            floor, before = floor_us(setting) if before is None else before, None
            try:
                figures = run_one(setting, target)
            except StartError as error:
                ran = target.is_ours or any(name == target.name for _, name, _ in results.entries)
                (results.died if ran else results.skipped)[label if ran else target.name] = str(error)
                continue
            except PeerError as error:
                results.died[label] = str(error)
                continue
            before = floor_us(setting)
            entry = Entry(figures, (floor + before) / 2)
            results.add(setting.variant, target, entry)
            shares = f"{entry.share:.2f} of the floor ({entry.cpu_share:.2f} by CPU)"
            yield f"{number}/{repeats} {label}: {figures.requests_per_s:.0f}/s, {shares}"


def run_one(setting: Setting, target: Target) -> Figures:
    """One target in one round.

    Raises:
        StartError: it cannot be run here.
        PeerError: it ends.
    """
    port, *spare = free_ports(1 + _SPARE_PORTS)
    asked = Asked(target, setting.reference, setting.texts, setting.tokens)
    HOME.mkdir(parents=True, exist_ok=True)
    log = HOME / f"{target.name}.log"
    command = our_command(setting, port) if target.is_ours else peer_command(target)
    environment = {**os.environ, **peer_environment(setting, target, port, spare)}
    with (
        launched(command, environment, SERVER_CORE, log) as family,
        connected(target.wire, port, target.method, min(load_cores())) as ask,
    ):
        family.wait_until(partial(is_answering, ask, asked), _START_S)
        found = measure(family, ask, asked, setting.plan)
    if found.errors or found.wrong_answers:
        log.replace(log.with_suffix(".trouble.log"))  # the next round would overwrite it
    return found


def our_command(setting: Setting, port: int) -> list[str]:
    """This server on one core, without its cache, doing the peers' job and refusing no more than they do."""
    flags: dict[str, object] = {
        "bundle": setting.bundle.folder,
        "variant": setting.variant,
        "port": port,
        "metrics-port": 0,
    }
    flags |= {"sessions": 1, "threads": 1, "cache-mb": 0, "log-level": "error", "parts": _PARTS}
    flags |= {"queue-budget-ms": _PATIENCE_MS, "default-timeout-ms": _PATIENCE_MS}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "swiftrec.server", *words]


def peer_command(target: Target) -> list[str]:
    """Its server, in its own environment."""
    return [str(python_of(target.name)), "-m", f"swiftrec.benchmarks.peers.servers.{target.name}_server"]


def peer_environment(setting: Setting, target: Target, port: int, spare: Sequence[int]) -> dict[str, str]:
    """What `servers/job.py` reads."""
    facts: dict[str, object] = {
        "PEER_ENCODER": setting.encoder.absolute(),
        "PEER_RANKER": (setting.bundle.folder / "ranker.onnx").absolute(),
        "PEER_FOLDER": setting.bundle.folder.absolute(),
        "PEER_MAX_TOKENS": setting.bundle.manifest.max_tokens,
        "PEER_SPLIT": setting.best_batch if target.splits else 0,
        "PEER_PORT": port,
        "PEER_FLUSH": int(setting.do_peers_flush),
        "PYTHONPATH": Path.cwd(),
    }
    facts |= {f"PEER_SPARE_{n}": spare_port for n, spare_port in enumerate(spare, 1)}
    if target.batching:
        facts |= {"PEER_BATCH": target.batching.batch, "PEER_WAIT_MS": target.batching.wait_ms}
    return {name: str(value) for name, value in facts.items()}


def floor_us(setting: Setting) -> float:
    """CPU microseconds a text offline."""
    return float(floor(setting.bundle, setting.variant, setting.floor_texts, [setting.best_batch])["floor_us"])


def floor(bundle: Bundle, variant: str, texts: int, batches: Sequence[int] | None) -> dict[str, Any]:
    """The floor of this job, with these batch sizes or all that the floor tries."""
    return measure_floor(
        bundle=bundle.folder, variant=variant, workload="query", texts=texts, batch=batches, parts=_PARTS
    )
