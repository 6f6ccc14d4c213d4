"""The order of a comparison: every target once a round, the floor before and after each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swiftrec.benchmarks.peers.client_limit import client_costs
from swiftrec.benchmarks.peers.ground_truth import GroundTruth
from swiftrec.benchmarks.peers.install import HOME, InstallError, python_of
from swiftrec.benchmarks.peers.measure import LoadShape, RoundFigures, is_answering, measure
from swiftrec.benchmarks.peers.process_tree import PeerError, StartError, free_ports, launched
from swiftrec.benchmarks.peers.results import PeerResults, RoundResult
from swiftrec.benchmarks.peers.session import PeerSession
from swiftrec.benchmarks.peers.targets import SEPARATOR, Target
from swiftrec.benchmarks.peers.transports import connected
from swiftrec.benchmarks.server_process import SERVER_CORE, load_cores, run_floor_tool
from swiftrec.server.models.bundle import Bundle

_START_S = 90.0
_SPARE_PORTS = 3
_PARTS = "ranker"  # of the score: the only one that the peers' job has
_TIMEOUT_MS = 30_000  # as the client's


@dataclass(frozen=True, slots=True)
class PeerSetup:
    """What all targets share."""

    bundle: Bundle
    variant: str
    texts: Sequence[str]
    tokens: Sequence[int]
    truth: GroundTruth
    shape: LoadShape
    floor_texts: int
    best_batch: int

    @property
    def encoder(self) -> Path:
        """The graph that every server runs."""
        return self.bundle.encoder("cpu", self.variant)


def install_all(targets: Sequence[Target], results: PeerResults) -> None:
    """Install the peers that are missing; those that cannot be installed are skipped."""
    for name in dict.fromkeys(target.name for target in targets if not target.is_ours):
        try:
            python_of(name)
        except InstallError as error:
            results.skipped[name] = str(error)


def run_rounds(setup: PeerSetup, targets: Sequence[Target], repeats: int, results: PeerResults) -> Iterator[str]:
    """Measure into `results`; yields a line of progress after each target. A target that failed is not tried again."""
    results.client_us = results.client_us or client_costs(setup.texts, setup.tokens, setup.truth, setup.shape)
    before: float | None = None
    for number in range(1, repeats + 1):
        for target in targets:
            label = f"{setup.variant}{SEPARATOR}{target.label}"
            if target.name in results.skipped or label in results.died:
                continue
            floor, before = floor_us(setup) if before is None else before, None
            try:
                figures = run_target(setup, target)
            except PeerError as error:
                _note_failure(results, target, label, error)
                continue
            before = floor_us(setup)
            result = RoundResult(figures, (floor + before) / 2)
            results.add(setup.variant, target, result)
            shares = f"{result.share:.2f} of the floor ({result.cpu_share:.2f} by CPU)"
            yield f"{number}/{repeats} {label}: {figures.requests_per_s:.0f}/s, {shares}"


def _note_failure(results: PeerResults, target: Target, label: str, error: PeerError) -> None:
    """A peer that never ran is skipped in every mode; any other failure is one of this mode."""
    has_run = target.is_ours or any(name == target.name for _, name, _ in results.rounds)
    if isinstance(error, StartError) and not has_run:
        results.skipped[target.name] = str(error)
    else:
        results.died[label] = str(error)


def run_target(setup: PeerSetup, target: Target) -> RoundFigures:
    """One target in one round.

    Raises:
        StartError: it cannot be run here.
        PeerError: it ended.
    """
    port, *spare = free_ports(1 + _SPARE_PORTS)
    session = PeerSession(target, setup.truth, setup.texts, setup.tokens)
    HOME.mkdir(parents=True, exist_ok=True)
    log = HOME / f"{target.name}.log"
    command = our_command(setup, port) if target.is_ours else peer_command(target)
    environment = {**os.environ, **peer_environment(setup, target, port, spare)}
    with (
        launched(command, environment, SERVER_CORE, log) as tree,
        connected(target.transport, port, target.method, min(load_cores())) as send,
    ):
        tree.wait_until(partial(is_answering, send, session), _START_S)
        figures = measure(tree, send, session, setup.shape)
    if figures.errors or figures.wrong_answers:
        log.replace(log.with_suffix(".trouble.log"))  # the next round would overwrite it
    return figures


def our_command(setup: PeerSetup, port: int) -> list[str]:
    """This server on one core, without its cache, with the peers' job; it rejects no earlier than they do."""
    flags: dict[str, object] = {
        "bundle": setup.bundle.folder,
        "variant": setup.variant,
        "port": port,
        "metrics-port": 0,
    }
    flags |= {"sessions": 1, "threads": 1, "cache-mb": 0, "log-level": "error", "parts": _PARTS}
    flags |= {"queue-budget-ms": _TIMEOUT_MS, "default-timeout-ms": _TIMEOUT_MS}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "swiftrec.server", *words]


def peer_command(target: Target) -> list[str]:
    """The command of a peer's server, in its environment."""
    return [str(python_of(target.name)), "-m", f"swiftrec.benchmarks.peers.servers.{target.name}_server"]


def peer_environment(setup: PeerSetup, target: Target, port: int, spare: Sequence[int]) -> dict[str, str]:
    """The variables that `servers/job.py` reads."""
    variables: dict[str, object] = {
        "PEER_ENCODER": setup.encoder.absolute(),
        "PEER_RANKER": (setup.bundle.folder / "ranker.onnx").absolute(),
        "PEER_FOLDER": setup.bundle.folder.absolute(),
        "PEER_MAX_TOKENS": setup.bundle.manifest.max_tokens,
        "PEER_SPLIT": setup.best_batch if target.splits else 0,
        "PEER_PORT": port,
        "PYTHONPATH": Path.cwd(),
    }
    variables |= {f"PEER_SPARE_{n}": spare_port for n, spare_port in enumerate(spare, 1)}
    if target.batching:
        variables |= {"PEER_BATCH": target.batching.batch, "PEER_WAIT_MS": target.batching.wait_ms}
    return {name: str(value) for name, value in variables.items()}


def floor_us(setup: PeerSetup) -> float:
    """CPU microseconds a text offline."""
    return float(floor(setup.bundle, setup.variant, setup.floor_texts, [setup.best_batch])["floor_us"])


def floor(bundle: Bundle, variant: str, texts: int, batches: Sequence[int] | None) -> dict[str, Any]:
    """The floor of this job, with these batch sizes or all that the floor tries."""
    return run_floor_tool(
        bundle=bundle.folder, variant=variant, workload="query", texts=texts, batch=batches, parts=_PARTS
    )
