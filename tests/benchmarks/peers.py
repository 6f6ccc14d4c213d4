"""Servers that cost nothing and figures that are known, for the tests of the comparison with other servers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from swiftrec.benchmarks.bundle_id import BundleId
from swiftrec.benchmarks.peers import messages
from swiftrec.benchmarks.peers.ground_truth import GroundTruth
from swiftrec.benchmarks.peers.measure import LoadShape, RoundFigures
from swiftrec.benchmarks.peers.rounds import PeerSetup
from swiftrec.benchmarks.peers.targets import DOCUMENTED, Batching, Target
from swiftrec.benchmarks.peers.transports import Transport
from swiftrec.server.models.bundle import Bundle

BUNDLE_ID = BundleId("b", "1", "5f3a")
CORE = min(os.sched_getaffinity(0))
IDS = [str(n) for n in range(20)]
TEXTS = [f"text {n} " + "word " * (n % 7) for n in range(64)]
TOKENS = [len(text.split()) + 2 for text in TEXTS]
PLAN = LoadShape(seconds=0.3, warmup_s=0.1, in_flight=4)
ECHO = [sys.executable, "-m", "swiftrec.benchmarks.peers.servers.http_echo"]
# Answers like the echo server, but dies with exit code 3 on its hundredth request.
DYING = [sys.executable, "-c", """
import asyncio, os
from swiftrec.benchmarks.peers.servers import http_echo
seen = 0
class Dying(http_echo.Echo):
    def data_received(self, data):
        global seen
        seen += 1
        os._exit(3) if seen == 100 else super().data_received(data)
http_echo.Echo = Dying
asyncio.run(http_echo.main())
"""]  # fmt: skip


def scores(best: Sequence[str] = IDS[:10], gap: float = 0.05) -> GroundTruth:
    """For every text the same ranking: `best`, then the others."""
    order = [*best, *(item for item in IDS if item not in best)]
    row = [1.0 - gap * order.index(item) for item in IDS]
    return GroundTruth.of(np.tile(np.asarray(row, dtype=np.float32), (len(TEXTS), 1)), IDS)


def fake(name: str, mode: str = DOCUMENTED, transport: Transport = "http") -> Target:
    def pack(texts: Sequence[str]) -> bytes:
        return messages.post("/", json.dumps(texts).encode())

    return Target(name, mode, transport, "/", pack, messages.json_ids, batching=Batching(8, 1))


def figures(**changes: Any) -> RoundFigures:  # noqa: ANN401 (fields of several types)
    values: dict[str, Any] = dict.fromkeys(RoundFigures.__dataclass_fields__, 0) | {
        "requests_per_s": 500.0, "server_us": 1_250.0, "mix": 0.9, "p50_ms_one_in_flight": 2.0, "p99_ms_at_70": 9.0,
        "trouble": "", "latency_ms": np.zeros(0),
    }  # fmt: skip
    return RoundFigures(**(values | changes))


def setup(right: GroundTruth) -> PeerSetup:
    variants = dict.fromkeys(("int8", "fp32"), "no.onnx")
    manifest: Any = SimpleNamespace(
        name="b", version=1, export_key="5f3a", max_tokens=128, variants=variants, default={"cpu": "int8"}
    )
    return PeerSetup(
        Bundle(Path("nowhere"), manifest), "int8", TEXTS, TOKENS, right, PLAN, floor_texts=58, best_batch=8
    )
