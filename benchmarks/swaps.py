"""`swiftrec bench swaps`: a bundle changes again and again while requests run.

Two versions have the same models and the same items in another order, so that they answer each request with other ids.
The server runs in this process and reads each version in full; only the trial of a new version in a separate process,
a second each, is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from unittest.mock import patch

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import report
from swiftrec.benchmarks.client import Answered, ClosedLoop, Log, Send, connected
from swiftrec.benchmarks.summary import OK
from swiftrec.benchmarks.workload import PATHS, Asked, make
from swiftrec.server.app import App
from swiftrec.server.catalogue.catalogue import ITEMS
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import MANIFEST, Bundle, Manifest, file_hash, load_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendResponse

_NAME = "swapped"
_TIE = 1e-4  # by which scores differ between batches: items that near may change places
Ranking: TypeAlias = "list[tuple[str, float]]"
_TIMEOUT_MS = 30_000  # of a request: the server may be busy with a swap


class SwapsSettings(BaseSettings):
    """Answers while a bundle is replaced a thousand times; goals: no error, no answer that mixes two versions."""

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench swaps", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder; the bundle's default if not given")
    swaps: int = Field(1_000, ge=1, description="how often another version replaces the one that serves")
    in_flight: int = Field(4, ge=1, le=512, description="requests in flight")
    requests: int = Field(64, ge=1, description="different requests of the workload mixed, sent again and again")
    seed: int = Field(7, description="of the requests")


@dataclass(slots=True)
class Ledger:
    """What came back: `own` has the ranking of each request by version, modulo 2; the rest counts."""

    own: tuple[dict[bytes, Ranking], dict[bytes, Ranking]]
    answers: int = 0
    mixed: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    versions: set[int] = field(default_factory=set)

    def note(self, request: bytes, code: int, reply: bytes) -> None:
        """Look at what a request was answered with."""
        if code != OK:
            self.errors[code] += 1
            return
        answer = RecommendResponse.FromString(reply)
        self.answers += 1
        self.versions.add(answer.version)
        self.mixed += not _is_own(_ranked(answer), self.own[answer.version % 2][request])

    def through(self, send: Send) -> Send:
        """Send, and note the answer."""

        def ask(request: bytes, answered: Answered) -> None:
            def note(code: int, reply: bytes) -> None:
                self.note(request, code, reply)
                answered(code, b"")

            send(request, note)

        return ask


def run(settings: SwapsSettings) -> int:
    """Swap under load and write what came back; 1 if a goal is missed."""
    real = load_bundle(settings.bundle)
    asked = make("mixed", real.folder, settings.requests, settings.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swaps-") as scratch:
        ledger = _swapped(settings, Versions(real, Path(scratch), real.variant("cpu", settings.variant)), asked)
    figures = {
        "swaps": settings.swaps,
        "versions": len(ledger.versions),
        "answers": ledger.answers,
        "errors": {str(code): number for code, number in ledger.errors.items()},
        "mixed": ledger.mixed,
        "seconds": time.monotonic() - started,
    }
    rows = [[name, f"{value:.0f}" if isinstance(value, float) else str(value)] for name, value in figures.items()]
    is_kept = not ledger.errors and not ledger.mixed
    verdict = "no error, no mixed answer" if is_kept else "missed: errors by status code, or mixed answers, above"
    report.write(f"{report.table(['what', 'found'], rows)}\n{verdict}", figures)
    return int(not is_kept)


class Versions:
    """Writes versions 1, 2, ... of one bundle: the odd ones as it is, the even ones with each id at another item.

    Args:
        real: the bundle.
        folder: of the files and of the versions.
        variant: the only encoder that they have, so that a version is read quickly.
    """

    def __init__(self, real: Bundle, folder: Path, variant: str) -> None:
        self.folder = folder / _NAME
        facts, left_out = real.manifest, {*real.manifest.variants.values()} - {real.manifest.variants[variant]}
        self._parts = folder / "even", folder / "odd"
        names = [name for name in facts.files if name not in left_out]
        for part in self._parts:
            part.mkdir()
            for name in names:
                shutil.copyfile(real.folder / name, part / name)
        lines = [json.loads(line) for line in (real.folder / ITEMS).read_bytes().splitlines()]
        moved = [line | {"id": other["id"]} for line, other in zip(lines, lines[1:] + lines[:1], strict=True)]
        (self._parts[0] / ITEMS).write_text("".join(f"{json.dumps(line)}\n" for line in moved), encoding="utf-8")
        update = {"name": _NAME, "variants": {variant: facts.variants[variant]}, "default": {"cpu": variant}}
        self._facts = [
            facts.model_copy(update=update | {"files": {name: file_hash(part / name) for name in names}})
            for part in self._parts
        ]

    def add(self, version: int) -> None:
        """Write a version, with hard links; the one before the last goes."""
        folder, facts = self.folder / str(version), self._facts[version % 2]
        scratch = self.folder / f"{version}.new"
        scratch.mkdir(parents=True)
        for name in facts.files:
            os.link(self._parts[version % 2] / name, scratch / name)
        sealed: Manifest = facts.model_copy(update={"version": version}).sealed()
        (scratch / MANIFEST).write_text(sealed.model_dump_json(), encoding="utf-8")
        scratch.rename(folder)
        shutil.rmtree(self.folder / str(version - 2), ignore_errors=True)


def _swapped(settings: SwapsSettings, versions: Versions, asked: Asked) -> Ledger:
    versions.add(1)
    with _serving(versions.folder) as app, connected(f"127.0.0.1:{app.port}", PATHS["recommend"]) as send:
        odd = _own(send, asked)
        versions.add(2)
        app.registry.load(_NAME)
        ledger = Ledger((_own(send, asked), odd))
        if same := sum(_is_own(ledger.own[0][request], odd[request]) for request in asked.payloads):
            raise RuntimeError(f"{same} requests have the same answer from both versions: the catalogue is too small")
        loop = ClosedLoop(ledger.through(send), Log(asked), settings.in_flight, cycle=True)
        loop.start()
        try:
            for version in range(3, settings.swaps + 3):
                versions.add(version)
                app.registry.load(_NAME)
        finally:
            loop.stop()
            loop.rows()
    return ledger


@contextmanager
def _serving(folder: Path) -> Iterator[App]:
    settings = ServerSettings(
        bundle=[folder],
        port=0,
        metrics_port=0,
        cache_mb=0,
        default_timeout_ms=_TIMEOUT_MS,
        queue_budget_ms=_TIMEOUT_MS,
        _cli_parse_args=[],
    )
    with patch("swiftrec.server.app.probe", lambda *_: None):
        app = App(settings)
        app.start()
        try:
            yield app
        finally:
            app.stop()


def _ranked(answer: RecommendResponse) -> Ranking:
    return [(item.item_id, item.score) for item in answer.items]


def _is_own(found: Ranking, own: Ranking) -> bool:
    """Whether a ranking is that of a version, but for places of items whose scores are all but equal."""
    is_whole = {name for name, _ in found[:-1]} <= {name for name, _ in own}
    pairs = zip(found, own, strict=False)
    return is_whole and len(found) == len(own) and all(a == b or abs(x - y) < _TIE for (a, x), (b, y) in pairs)


def _own(send: Send, asked: Asked) -> dict[bytes, Ranking]:
    """The ranking that each request is answered with, asked alone."""
    found: dict[bytes, Ranking] = {}

    def keep(request: bytes, answered: Answered) -> None:
        def note(code: int, reply: bytes) -> None:
            found[request] = _ranked(RecommendResponse.FromString(reply if code == OK else b""))
            answered(code, b"")

        send(request, note)

    loop = ClosedLoop(keep, Log(asked), 1)
    loop.start()
    loop.rows()
    if not all(found.values()):
        raise RuntimeError("a request had no answer before the first swap: try `swiftrec bench load`")
    return found
