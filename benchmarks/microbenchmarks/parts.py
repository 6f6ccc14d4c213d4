"""`swiftrec bench parts`: CPU time of a request with every part of the score, and with the ranker alone.

Both engines run in this process, without gRPC, one request after the other, in alternating rounds. Texts are
repeated, so that the cache replaces the encoder and the rest is compared.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from swiftrec.benchmarks import formatting
from swiftrec.benchmarks.item_texts import bundle_texts
from swiftrec.server.domain import ItemEvent, Request
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.parts import PARTS
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender

REQUEST_KINDS = ("history", "query", "both")
_EVENTS, _TEXTS = 20, 15


class PartsSettings(BaseSettings):
    """Compare the CPU time of a request with all parts of the score and with the ranker alone.

    Use it to see the cost of the parts memory and words. Prints a row for requests with a history, a query and both.
    """

    model_config = SettingsConfigDict(cli_prog_name="swiftrec bench parts", cli_kebab_case=True)

    bundle: Path = Field(Path("artifacts/movielens-quick"), description="bundle, or folder of versions")
    requests: int = Field(300, ge=1, description="number of requests of each kind per round")
    repeats: int = Field(7, ge=1, description="number of rounds")
    grpc_us: float = Field(290, ge=0, description="CPU time of gRPC per request, added to both results")
    seed: int = Field(7, description="random seed of histories and texts")


def run(settings: PartsSettings) -> int:
    """Measure and print the table."""
    bundle = load_bundle(settings.bundle)
    engines = [
        Recommender(bundle, EngineOptions(sessions=1, parts_off=off))
        for off in (frozenset[str](), frozenset(PARTS) - {"ranker"})
    ]
    for engine in engines:
        engine.start()
    try:
        rows = {
            kind: _rounds(engines, _requests(settings, engines[0], kind), settings.repeats) for kind in REQUEST_KINDS
        }
    finally:
        for engine in engines:
            engine.stop()
    ratios = {kind: [all_parts / ranker for all_parts, ranker in row] for kind, row in rows.items()}
    served = {kind: [(w + settings.grpc_us) / (a + settings.grpc_us) for w, a in row] for kind, row in rows.items()}
    columns = {kind: [*zip(*rows[kind], strict=True), ratios[kind], served[kind]] for kind in REQUEST_KINDS}
    lines = [[kind, *(formatting.spread(column) for column in cells)] for kind, cells in columns.items()]
    head = ["CPU us a request", "all parts", "ranker", "ratio", f"with {settings.grpc_us:.0f} us of gRPC"]
    formatting.print_result(formatting.table(head, lines), {"us": rows, "ratios": ratios, "with_grpc": served})
    return 0


def _requests(settings: PartsSettings, engine: Recommender, kind: str) -> list[Request]:
    """Requests with a history of items, a query, or both."""
    rng = random.Random(settings.seed)  # noqa: S311 (no secret)
    ids = [item.id for item in engine.catalogue.items]
    texts = bundle_texts(settings.bundle, _TEXTS, settings.seed)
    return [
        Request(
            history=() if kind == "query" else tuple(ItemEvent(rng.choice(ids)) for _ in range(_EVENTS)),
            query="" if kind == "history" else rng.choice(texts),
        )
        for _ in range(settings.requests)
    ]


def _rounds(engines: Sequence[Recommender], requests: Sequence[Request], repeats: int) -> list[list[float]]:
    """CPU microseconds a request of each engine, [rounds][engines]; the first round does not count."""
    return [[_cpu_us(engine, requests) for engine in engines] for _ in range(1 + repeats)][1:]


def _cpu_us(engine: Recommender, requests: Sequence[Request]) -> float:
    started = time.process_time()
    for request in requests:
        engine.recommend([request])
    return 1e6 * (time.process_time() - started) / len(requests)
