"""`swiftrec bench peers`: other servers on the same job, side by side with this one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting, result_files
from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.environment import check_device
from swiftrec.benchmarks.item_texts import TokenCounter, bundle_texts
from swiftrec.benchmarks.optional_deps import error_sentence
from swiftrec.benchmarks.peers import tables
from swiftrec.benchmarks.peers.ground_truth import right_rankings
from swiftrec.benchmarks.peers.measure import LoadShape
from swiftrec.benchmarks.peers.results import PeerResults, PeerSettingsResult, PeersResult
from swiftrec.benchmarks.peers.rounds import PeerSetup, floor, install_all, run_rounds
from swiftrec.benchmarks.peers.targets import Target, select_targets, with_best, with_tries
from swiftrec.benchmarks.result_files import RESULTS
from swiftrec.benchmarks.selection import Selection
from swiftrec.server.models.bundle import Bundle, load_bundle


class PeersSettings(BaseSettings):
    """Compare requests per second, p50 and p99 with six other servers, on one core each.

    Use it to compare with Triton, MLServer, BentoML, Ray Serve, LitServe and mosec. Each is installed once, with pinned
    packages, under artifacts/.peers. Prints a table and writes peers.json into a new folder of results; with --tries
    peer-settings.json, whose best settings later comparisons use. Exit code 1 if a server is missing.
    """

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench peers", cli_kebab_case=True, cli_implicit_flags=True
    )
    RENAMED: ClassVar = {"out": "results"}

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: list[str] = Field([], description="encoders, e.g. bert3-int8; if not given, the bundle's default")
    targets: list[str] = Field([], description="names of the servers; if not given, all")
    repeats: int = Field(3, ge=1, description="number of rounds over all servers")
    seconds: float = Field(4.0, gt=0, description="length of each window")
    warmup_s: float = Field(1.5, ge=0, description="seconds of load before each window")
    in_flight: int = Field(64, ge=1, le=1_024, description="texts in flight at saturation")
    texts: int = Field(2_030, ge=64, description="number of different texts of 3 to 60 words, sent in turn")
    floor_texts: int = Field(290, ge=58, description="number of texts of the floor before and after each server")
    seed: int = Field(7, description="random seed of texts and arrivals")
    tries: bool = Field(False, description="measure each peer with each of its batching settings instead")
    device: Literal["cpu", "cuda"] = Field("cpu", description="only cpu: the peers have onnxruntime for CPUs")
    results: Path = Field(RESULTS, description="folder of results")


def run(settings: PeersSettings) -> int:
    """Measure and print; the exit code is 1 unless everything requested was measured to the end.

    Raises:
        RuntimeError, ValueError, SwiftrecError: nothing can be measured with these settings.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    check_cpu(settings.device)
    targets = (with_tries if settings.tries else select_targets)(settings.targets)
    bundle = load_bundle(settings.bundle)
    named = [bundle.variant("cpu", variant) for variant in settings.variant]
    variants = list(dict.fromkeys(named or [bundle.variant("cpu", None)]))
    kind = PeerSettingsResult if settings.tries else PeersResult
    result = kind.begin(BundleId.of(bundle.manifest), settings)
    folder = _new_folder(settings.results, result)
    measured = PeerResults(settings.repeats)
    reason = _measure(settings, bundle, variants, targets, measured, result, folder)
    return _finish(measured, result, folder, reason)


def check_cpu(device: str) -> None:
    """Other servers are compared on a CPU only.

    Raises:
        RuntimeError: another device was requested.
    """
    check_device(device)
    if device != "cpu":
        raise RuntimeError("--device cuda: peers are compared on a CPU only, where all have the same onnxruntime")


def best_settings(results: Path, like: PeersResult | PeerSettingsResult) -> list[dict[str, Any]]:
    """The settings that were tried last for each server and variant, on this machine and with this bundle."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _, result in Selection(results, like).all(PeerSettingsResult):
        tried: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in result.rows:
            tried.setdefault((row["target"], row["variant"]), []).append(row)
        rows = tried | rows  # results are sorted from the newest to the oldest
    return [row for group in rows.values() for row in group]


def prepare(settings: PeersSettings, bundle: Bundle, variant: str) -> PeerSetup:
    """Texts, right rankings and the floor's best batch for one variant."""
    texts = bundle_texts(bundle.folder, settings.texts, settings.seed)
    best = floor(bundle, variant, settings.floor_texts, None)["best_batch"]
    truth = right_rankings(bundle, bundle.encoder("cpu", variant), texts)
    shape = LoadShape(settings.seconds, settings.warmup_s, settings.in_flight, settings.seed)
    tokens = list(map(TokenCounter(bundle.folder).served, texts))
    return PeerSetup(bundle, variant, texts, tokens, truth, shape, settings.floor_texts, int(best))


def _new_folder(results: Path, result: PeersResult | PeerSettingsResult) -> Path:
    try:
        folder = result_files.new_folder(results, result.machine)
        result_files.save(folder, result)
    except OSError as error:
        raise RuntimeError(f"--results {results} cannot be written: {error_sentence(error)}") from None
    return folder


def _measure(
    settings: PeersSettings,
    bundle: Bundle,
    variants: Sequence[str],
    targets: Sequence[Target],
    measured: PeerResults,
    result: PeersResult | PeerSettingsResult,
    folder: Path,
) -> str:
    """Measure each variant and save after each target; gives the reason why something is missing, or nothing."""
    tried = [] if settings.tries else best_settings(settings.results, result)
    try:
        install_all(targets, measured)
        for variant in variants:
            rounds = run_rounds(
                prepare(settings, bundle, variant), with_best(targets, tried, variant), settings.repeats, measured
            )
            for line in rounds:
                sys.stderr.write(f"{line}\n")
                _save(measured, result, folder)
    except KeyboardInterrupt:
        return "it was interrupted"
    except (RuntimeError, OSError) as error:
        return error_sentence(error)
    missing = measured.why_skipped()
    return f"not measured: {', '.join(missing)}" if missing else ""


def _save(measured: PeerResults, result: PeersResult | PeerSettingsResult, folder: Path) -> None:
    if isinstance(result, PeersResult):
        result.rows, result.skipped, result.client_us = measured.rows(), measured.why_skipped(), measured.client_us
    else:
        result.rows = measured.tries()
    result_files.save(folder, result)


def _finish(measured: PeerResults, result: PeersResult | PeerSettingsResult, folder: Path, reason: str) -> int:
    """Print the tables and write the file; the exit code."""
    text = measured.table()
    if isinstance(result, PeerSettingsResult):
        text = f"{tables.tries(measured.tries())}\n{text}"
    result.finish(reason)
    try:
        _save(measured, result, folder)
    except OSError as error:
        reason = f"the result cannot be written: {error_sentence(error)}: give another --results"
    limited = measured.limited()
    for label in limited:
        sys.stderr.write(f"swiftrec bench peers: the client is the bottleneck: {label}\n")
    text = f"{text}\nwritten to {folder / result.file}"
    code = formatting.finish("peers", text, {"peers": result.rows}, reason)
    return 1 if limited else code
