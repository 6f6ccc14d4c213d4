"""`swiftrec bench swaps`: a bundle is replaced repeatedly while requests run.

Two versions have the same models and the same items in another order, so that they return other ids for each request.
The server runs in this process and loads each version completely; only the trial of a new version in a separate
process, a second each, is left out.
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

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.client import ClosedLoop, OnResponse, ResponseLog, SendRequest, connected, send_all
from swiftrec.benchmarks.statistics import OK
from swiftrec.benchmarks.workload import PATHS, Requests, make
from swiftrec.promise import Promise
from swiftrec.server.app import App
from swiftrec.server.catalogue.catalogue import ITEMS
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import MANIFEST, Bundle, Manifest, file_hash, load_bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import RecommendResponse

_NAME = "swapped"
_TIE = 1e-4  # scores differ by less between batches: such items may be swapped
Ranking: TypeAlias = "list[tuple[str, float]]"
_TIMEOUT_MS = 30_000  # of a request: the server may be busy with a swap


class SwapsSettings(BaseSettings):
    """Replace a bundle 1,000 times under load and check every response.

    Use it after a change of loading or of the registry. Goals: no error, and no response that mixes two versions.
    Prints counts; exit code 1 if a goal is missed.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench swaps", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    variant: str | None = Field(None, description="encoder; the bundle's default if not given")
    swaps: int = Field(1_000, ge=1, description="number of times the served version is replaced")
    in_flight: int = Field(4, ge=1, le=512, description="requests in flight")
    requests: int = Field(64, ge=1, description="number of different requests of the workload mixed, sent repeatedly")
    seed: int = Field(7, description="random seed of the requests")


@dataclass(slots=True)
class ResponseChecker:
    """Checks and counts responses; `own` has the ranking of each request by version, modulo 2."""

    own: tuple[dict[bytes, Ranking], dict[bytes, Ranking]]
    answers: int = 0
    mixed: int = 0
    errors: Counter[int] = field(default_factory=Counter)
    versions: set[int] = field(default_factory=set)

    def check(self, request: bytes, code: int, response: bytes) -> None:
        """Check the response to a request."""
        if code != OK:
            self.errors[code] += 1
            return
        ranked = RecommendResponse.FromString(response)
        self.answers += 1
        self.versions.add(ranked.version)
        self.mixed += not _is_own(_ranking(ranked), self.own[ranked.version % 2][request])

    def goals(self) -> list[Promise]:
        """No error, and no response that mixes two versions."""
        return [
            Promise("responses with another status than OK", 0, [self.errors.total()], at_most=True),
            Promise("responses that mix two versions", 0, [self.mixed], at_most=True),
        ]

    def checked(self, send: SendRequest) -> SendRequest:
        """A `SendRequest` that checks each response."""

        def checked_send(request: bytes, on_response: OnResponse) -> None:
            def check(code: int, response: bytes) -> None:
                self.check(request, code, response)
                on_response(code, b"")

            send(request, check)

        return checked_send


def run(settings: SwapsSettings) -> int:
    """Replace the bundle under load and print the counts; 1 if a goal is missed."""
    real = load_bundle(settings.bundle)
    requests = make("mixed", real.folder, settings.requests, settings.seed)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swaps-") as scratch:
        checker = _swapped(settings, Versions(real, Path(scratch), real.variant("cpu", settings.variant)), requests)
    figures = {
        "swaps": settings.swaps,
        "versions": len(checker.versions),
        "answers": checker.answers,
        "errors": {str(code): number for code, number in checker.errors.items()},
        "mixed": checker.mixed,
        "seconds": time.monotonic() - started,
    }
    rows = [[name, f"{value:.0f}" if isinstance(value, float) else str(value)] for name, value in figures.items()]
    return formatting.finish_judged("swaps", formatting.table(["what", "found"], rows), figures, checker.goals())


class Versions:
    """Writes versions 1, 2, ... of one bundle: the odd ones unchanged, the even ones with each id at another item.

    Args:
        real: the bundle.
        folder: of the files and of the versions.
        variant: their only encoder, so that a version loads quickly.
    """

    def __init__(self, real: Bundle, folder: Path, variant: str) -> None:
        self.folder = folder / _NAME
        manifest, left_out = real.manifest, {*real.manifest.variants.values()} - {real.manifest.variants[variant]}
        self._parts = folder / "even", folder / "odd"
        names = [name for name in manifest.files if name not in left_out]
        for part in self._parts:
            part.mkdir()
            for name in names:
                shutil.copyfile(real.folder / name, part / name)
        lines = [json.loads(line) for line in (real.folder / ITEMS).read_bytes().splitlines()]
        moved = [line | {"id": other["id"]} for line, other in zip(lines, lines[1:] + lines[:1], strict=True)]
        (self._parts[0] / ITEMS).write_text("".join(f"{json.dumps(line)}\n" for line in moved), encoding="utf-8")
        update = {"name": _NAME, "variants": {variant: manifest.variants[variant]}, "default": {"cpu": variant}}
        self._manifests = [
            manifest.model_copy(update=update | {"files": {name: file_hash(part / name) for name in names}})
            for part in self._parts
        ]

    def add(self, version: int) -> None:
        """Write a version, with hard links, and delete the one before the last."""
        folder, manifest = self.folder / str(version), self._manifests[version % 2]
        scratch = self.folder / f"{version}.new"
        scratch.mkdir(parents=True)
        for name in manifest.files:
            os.link(self._parts[version % 2] / name, scratch / name)
        sealed: Manifest = manifest.model_copy(update={"version": version}).sealed()
        (scratch / MANIFEST).write_text(sealed.model_dump_json(), encoding="utf-8")
        scratch.rename(folder)
        shutil.rmtree(self.folder / str(version - 2), ignore_errors=True)


def _swapped(settings: SwapsSettings, versions: Versions, requests: Requests) -> ResponseChecker:
    versions.add(1)
    with _serving(versions.folder) as app, connected(f"127.0.0.1:{app.port}", PATHS["recommend"]) as send:
        odd = _own(send, requests)
        versions.add(2)
        app.registry.load(_NAME)
        checker = ResponseChecker((_own(send, requests), odd))
        if same := sum(_is_own(checker.own[0][request], odd[request]) for request in requests.payloads):
            raise RuntimeError(
                f"{same} requests have the same ranking in both versions: give a --bundle with more items"
            )
        loop = ClosedLoop(checker.checked(send), ResponseLog(requests), settings.in_flight, cycle=True)
        loop.start()
        try:
            for version in range(3, settings.swaps + 3):
                versions.add(version)
                app.registry.load(_NAME)
        finally:
            loop.stop()
            loop.wait()
    return checker


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


def _ranking(response: RecommendResponse) -> Ranking:
    return [(item.item_id, item.score) for item in response.items]


def _is_own(ranking: Ranking, own: Ranking) -> bool:
    """Whether a ranking is that of a version, except for the order of items with nearly equal scores."""
    is_whole = {name for name, _ in ranking[:-1]} <= {name for name, _ in own}
    pairs = zip(ranking, own, strict=False)
    return is_whole and len(ranking) == len(own) and all(a == b or abs(x - y) < _TIE for (a, x), (b, y) in pairs)


def _own(send: SendRequest, requests: Requests) -> dict[bytes, Ranking]:
    """The ranking of each request, sent alone."""
    log = ResponseLog(requests)
    send_all(send, log)
    responses = {requests.payloads[row.request]: row.response if row.code == OK else b"" for row in log.rows}
    rankings = {request: _ranking(RecommendResponse.FromString(response)) for request, response in responses.items()}
    if not all(rankings.values()):
        raise RuntimeError("a request had no response before the first swap: try `swiftrec bench load`")
    return rankings
