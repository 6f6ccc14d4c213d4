"""What is measured: each peer as documented and with splitting by length, and this server in its three ways."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from swiftrec.benchmarks.peers import messages
from swiftrec.benchmarks.peers.wire import Wire
from swiftrec.benchmarks.workload import LIST_ENTRIES


@dataclass(frozen=True, slots=True)
class Batching:
    """Largest batch and how long a batch waits for more, in milliseconds."""

    batch: int
    wait_ms: int

    def __str__(self) -> str:
        return f"{self.batch} within {self.wait_ms} ms"


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table.

    Attributes:
        name: of the server; also that of its environment and of its module in `servers`.
        mode: "as documented" or "split" (by length, in its batch function); for this server the kind of call.
        wire: how requests reach it.
        method: the gRPC method; an HTTP request names its own path.
        pack: texts to a request.
        unpack: a reply to item ids for each of its texts; raises ValueError if it is none.
        texts: in one request.
        batching: of a peer; `tries` are measured by --tries.
    """

    name: str
    mode: str
    wire: Wire
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
        """For progress and errors."""
        return f"{self.name}{SEPARATOR}{self.mode}"

    @property
    def splits(self) -> bool:
        """Whether its batch function splits by length."""
        return self.mode.startswith(SPLIT)


SEPARATOR = ", "  # between variant, server and mode of a row that died
DOCUMENTED, SPLIT = "as documented", "split"
OURS, UNARY, LIST, STREAM = "swiftrec", "unary", "list of 32", "stream"


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
_LONG = 64
_OURS = (
    Target(OURS, UNARY, "grpc", messages.RECOMMEND, messages.pack_one, messages.unpack_one),
    Target(OURS, LIST, "grpc", messages.LIST, messages.pack_list, messages.unpack_list, LIST_ENTRIES),
    Target(OURS, STREAM, "stream", messages.STREAM, messages.pack_streamed, messages.unpack_streamed),
)


def targets(names: Sequence[str]) -> list[Target]:
    """The rows of these servers (all if none is named), in the order of a round.

    Raises:
        ValueError: there is no such server.
    """
    every = [*_OURS, *(made for peer in _PEERS for made in _twice(peer))]
    known = {target.name for target in every}
    if unknown := set(names) - known:
        raise ValueError(f"no server {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return [target for target in every if not names or target.name in names]


def tried(names: Sequence[str]) -> list[Target]:
    """The rows of the peers among these, with each of their settings.

    Raises:
        ValueError: there is no such server, or none that has settings.
    """
    found = [
        replace(target, mode=f"{target.mode}, {batching}", batching=batching)
        for target in targets(names)
        for batching in target.tries
    ]
    if not found:
        raise ValueError(f"{', '.join(names)}: no settings to try: leave --tries out, or name other --targets")
    return found


def tuned(chosen: Sequence[Target], tries: Sequence[Mapping[str, Any]], variant: str) -> list[Target]:
    """The same, each peer with the setting that was the best of its `tries` for this variant, if they were measured."""
    best = {(row["target"], row["mode"]): row["tried"] for row in tries if row["is_best"] and row["variant"] == variant}

    def batching(target: Target) -> Batching | None:
        wanted = best.get((target.name, target.mode))
        return next((one for one in target.tries if str(one) == wanted), target.batching)

    return [replace(target, batching=batching(target)) for target in chosen]


def _twice(peer: Target) -> list[Target]:
    """As documented, and split: there a longer batch may pay, since more texts are sorted at once."""
    longer = Batching(_LONG, peer.tries[0].wait_ms)
    split = replace(peer, mode=SPLIT, tries=tuple(dict.fromkeys((*peer.tries, longer))))
    return [replace(target, batching=target.tries[0]) for target in (peer, split)]
