"""`swiftrec bench peers`: other servers on the same job, side by side with this one."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.extra import sentence
from swiftrec.benchmarks.peers.measure import Plan
from swiftrec.benchmarks.peers.reference import right_scores
from swiftrec.benchmarks.peers.results import Results
from swiftrec.benchmarks.peers.rounds import Setting, floor, install_all, run_rounds
from swiftrec.benchmarks.peers.targets import targets, tried, tuned
from swiftrec.benchmarks.suite import apart, joined
from swiftrec.benchmarks.suite.settings import RESULTS
from swiftrec.benchmarks.suite.start import check_device
from swiftrec.benchmarks.texts import TokenCounter
from swiftrec.benchmarks.texts import texts as texts_of
from swiftrec.server.config import read_settings
from swiftrec.server.errors import SwiftrecError
from swiftrec.server.flags import with_flags
from swiftrec.server.models.bundle import Bundle, load_bundle


class PeersSettings(BaseSettings):
    """Triton, MLServer, BentoML, Ray Serve, LitServe, mosec and this server: the same job, one core each, in turn."""

    model_config = SettingsConfigDict(
        cli_prog_name="swiftrec bench peers", cli_kebab_case=True, cli_implicit_flags=True
    )

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: list[str] = Field([], description="encoders, e.g. bert3-int8; none: the bundle's default")
    targets: list[str] = Field([], description="servers, by name; all if none is given")
    repeats: int = Field(3, ge=1, description="rounds over all servers")
    seconds: float = Field(4.0, gt=0, description="length of each window")
    warmup_s: float = Field(1.5, ge=0, description="load before each window")
    in_flight: int = Field(64, ge=1, le=1_024, description="texts in flight when saturated")
    texts: int = Field(2_030, ge=64, description="different texts of 3 to 60 words, asked in turn")
    floor_texts: int = Field(290, ge=58, description="texts of the floor before and after each")
    seed: int = Field(7, description="of texts and arrivals")
    tries: bool = Field(False, description="each peer with each of its settings instead; the best is used from then on")
    flush: bool = Field(False, description="peers count denormals as zero, as this server does; joined to no result")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cuda is refused: the peers have onnxruntime for CPUs")
    out: Path | None = Field(
        None, description="where the JSON goes; artifacts/peers.json if not given, peers-tries.json with --tries"
    )

    @property
    def file(self) -> Path:
        """Where the JSON goes."""
        return self.out or Path("artifacts") / ("peers-tries.json" if self.tries else "peers.json")


def main(arguments: list[str]) -> int:
    """Exit code 0 if everything that was asked for was measured to the end, 1 if something is missing."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = read_settings(PeersSettings, with_flags(arguments, os.environ))
        check(settings.device)
        chosen = (tried if settings.tries else targets)(settings.targets)
        bundle = load_bundle(settings.bundle)
        measured = BundleId.of(bundle.manifest)
        known = [] if settings.tries else joined.known_tries(RESULTS, measured)
        named = [bundle.variant("cpu", wanted) for wanted in settings.variant]
        variants = list(dict.fromkeys(named or [bundle.variant("cpu", None)]))
    except (SwiftrecError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"swiftrec bench peers: {sentence(error)}\n")
        return 2
    results, has_ended = Results(settings.model_dump(mode="json"), measured), False
    try:
        install_all(chosen, results)
        for variant in variants:
            rows = tuned(chosen, known, variant)
            for line in run_rounds(prepare(settings, bundle, variant), rows, settings.repeats, results):
                sys.stderr.write(f"{line}\n")
                results.save(settings.file)
        results.is_partial, has_ended = bool(results.died or results.skipped), True
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was measured is kept\n")
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"swiftrec.benchmarks.peers: partial: {sentence(error)}\n")
    if settings.tries:
        sys.stdout.write(f"{apart.tries(results.tries())}\n")
    code = finish(results, settings.file)
    if has_ended and not settings.flush and (settings.tries or not settings.targets):
        return max(code, join({"tries": results.tries()} if settings.tries else results.section(), measured))
    return code


def check(device: str) -> None:
    """Other servers are compared on a CPU only.

    Raises:
        RuntimeError: another device was asked for.
    """
    check_device(device)
    if device != "cpu":
        raise RuntimeError("DEVICE=cuda: the peers are compared on a CPU only, where all have the same onnxruntime")


def prepare(settings: PeersSettings, bundle: Bundle, variant: str) -> Setting:
    """Texts, right answers and the floor's best batch for one variant."""
    texts = texts_of(bundle.folder, settings.texts, settings.seed)
    best = floor(bundle, variant, settings.floor_texts, None)["best_batch"]
    right = right_scores(bundle, bundle.encoder("cpu", variant), texts)
    plan = Plan(settings.seconds, settings.warmup_s, settings.in_flight, settings.seed)
    tokens = list(map(TokenCounter(bundle.folder).served, texts))
    return Setting(bundle, variant, texts, tokens, right, plan, settings.floor_texts, int(best), settings.flush)


def finish(results: Results, out: Path) -> int:
    """Print the table, write the file; the exit code."""
    sys.stdout.write(f"{results.table()}\n")
    try:
        results.save(out)
    except OSError as error:
        sys.stderr.write(
            f"swiftrec bench peers: {out} cannot be written: {sentence(error)}; --out takes another place\n"
        )
        return 1
    sys.stdout.write(f"written to {out}\n")
    for label in (limits := results.limits()):
        sys.stderr.write(f"swiftrec bench peers: the client is the bottleneck: {label}\n")
    return 1 if results.is_partial or limits else 0


def join(section: dict[str, Any], bundle: BundleId) -> int:
    """Put a comparison of all servers, or what was tried, into `make bench`'s result; the exit code."""
    try:
        joined.join("peers", section, RESULTS, bundle)
    except (OSError, RuntimeError) as error:
        sys.stderr.write(f"swiftrec bench peers: {RESULTS} cannot be written: {sentence(error)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
