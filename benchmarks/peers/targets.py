"""The compared servers: each peer as documented and split by length; this server per request and in batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swiftrec.benchmarks.peers import messages
from swiftrec.benchmarks.peers.transports import Transport
from swiftrec.benchmarks.workload import BATCH_ENTRIES


@dataclass(frozen=True, slots=True)
class Batching:
    """Largest batch, and how long it waits for more requests in milliseconds."""

    batch: int
    wait_ms: int

    def __str__(self) -> str:
        return f"{self.batch} within {self.wait_ms} ms"


@dataclass(frozen=True, slots=True)
class Target:
    """One server in one mode: a row of the table.

    Attributes:
        name: of the server; also that of its environment and of its module in `servers`.
        mode: "as documented" or "split" (by length, in its batch function); for this server the kind of RPC.
        transport: of requests.
        method: the gRPC method; an HTTP request names its own path.
        pack: texts to a request.
        unpack: a response to item ids for each of its texts; raises ValueError if it cannot be read.
        texts: number of texts in one request.
        batching: of a peer.
        tries: other batching settings, measured by --tries.
    """

    name: str
    mode: str
    transport: Transport
    method: str
    pack: Callable[[Sequence[str]], bytes]
    unpack: Callable[[bytes], list[list[str]]]
    texts: int = 1
    batching: Batching | None = None
    tries: tuple[Batching, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it is this server."""
        return self.batching is None

    @property
    def label(self) -> str:
        """Name and mode, for progress and errors."""
        return f"{self.name}{SEPARATOR}{self.mode}"

    @property
    def splits(self) -> bool:
        """Whether its batch function splits by length."""
        return self.mode.startswith(SPLIT)


SEPARATOR = ", "  # between variant, server and mode
DOCUMENTED, SPLIT = "as documented", "split"
OURS, UNARY, BATCH = "swiftrec", "unary", "batch of 32"


def _http(path: str, body: Callable[[str], object]) -> Callable[[Sequence[str]], bytes]:
    def pack(texts: Sequence[str]) -> bytes:
        (text,) = texts
        return messages.post(path, json.dumps(body(text)).encode())

    return pack


# `--tries` measures all of `tries`; from then on the best is used, before that the first.
_PEERS = (
    Target(
        "mosec", DOCUMENTED, "http", "/inference", _http("/inference", lambda text: {"text": text}), messages.json_ids,
        tries=(Batching(32, 10), Batching(16, 10), Batching(32, 1)),
    ),
    Target(
        "pytriton", DOCUMENTED, "grpc", messages.INFER, messages.pack_infer, messages.unpack_infer,
        tries=(Batching(32, 0), Batching(16, 0), Batching(32, 5)),
    ),
    Target(
        "mlserver", DOCUMENTED, "grpc", messages.INFER, messages.pack_infer, messages.unpack_infer,
        tries=(Batching(32, 10), Batching(16, 10), Batching(32, 1)),
    ),
    Target(
        "litserve", DOCUMENTED, "http", "/predict", _http("/predict", lambda text: {"text": text}), messages.json_ids,
        tries=(Batching(32, 10), Batching(16, 10), Batching(32, 1)),
    ),
    Target(
        "bentoml", DOCUMENTED, "http", "/recommend", _http("/recommend", lambda text: {"texts": [text]}),
        messages.json_lists, tries=(Batching(32, 60_000), Batching(16, 60_000), Batching(64, 60_000)),
    ),
    Target(
        "ray", DOCUMENTED, "grpc", messages.RECOMMEND, messages.pack_one, messages.unpack_one,
        tries=(Batching(32, 10), Batching(16, 10), Batching(32, 1)),
    ),
)  # fmt: skip
_LARGE_BATCH = 64
_OURS = (
    Target(OURS, UNARY, "grpc", messages.RECOMMEND, messages.pack_one, messages.unpack_one),
    Target(OURS, BATCH, "grpc", messages.BATCH, messages.pack_batch, messages.unpack_batch, BATCH_ENTRIES),
)


def select_targets(names: Sequence[str]) -> list[Target]:
    """These servers in each mode (all if none is named), in the order of a round.

    Raises:
        ValueError: there is no such server.
    """
    targets = [*_OURS, *(target for peer in _PEERS for target in _both_modes(peer))]
    all_names = {target.name for target in targets}
    if unknown := set(names) - all_names:
        raise ValueError(f"--targets: no server {', '.join(sorted(unknown))}: use {', '.join(sorted(all_names))}")
    return [target for target in targets if not names or target.name in names]


def with_tries(names: Sequence[str]) -> list[Target]:
    """The peers among these servers, with each of their settings.

    Raises:
        ValueError: there is no such server, or none that has settings.
    """
    targets = [
        replace(target, mode=f"{target.mode}, {batching}", batching=batching)
        for target in select_targets(names)
        for batching in target.tries
    ]
    if not targets:
        raise ValueError(f"{', '.join(names)}: no settings to try: leave --tries out, or name other --targets")
    return targets


def with_best(targets: Sequence[Target], tries: Sequence[Mapping[str, Any]], variant: str) -> list[Target]:
    """The targets, each peer with the best of its `tries` for this variant, if they were measured."""
    best_tries = {
        (row["target"], row["mode"]): row["tried"] for row in tries if row["is_best"] and row["variant"] == variant
    }

    def batching(target: Target) -> Batching | None:
        setting = best_tries.get((target.name, target.mode))
        return next((batching for batching in target.tries if str(batching) == setting), target.batching)

    return [replace(target, batching=batching(target)) for target in targets]


def _both_modes(peer: Target) -> list[Target]:
    """As documented, and split: there a larger batch may help, since more texts are sorted at once."""
    larger = Batching(_LARGE_BATCH, peer.tries[0].wait_ms)
    split = replace(peer, mode=SPLIT, tries=tuple(dict.fromkeys((*peer.tries, larger))))
    return [replace(target, batching=target.tries[0]) for target in (peer, split)]
