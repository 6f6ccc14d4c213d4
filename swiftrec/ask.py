"""`swiftrec ask`: send a request to a running server and print the ranked items."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Self

import grpc
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swiftrec.server.addresses import MAX_PORT, join_address, parse_host
from swiftrec.server.errors import ConfigError
from swiftrec.server.flags import with_flags
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from swiftrec.server.settings_reader import read_settings, require_utf8

_ID, _TEXT = "id:", "text:"  # prefixes of an event of --history
_TIMEOUT_S = 10.0


class AskSettings(BaseSettings):
    """Send a request to a running server and print the ranked items.

    Each flag can be set as an environment variable: --query is SWIFTREC_ASK_QUERY.
    """

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_ASK_",
        cli_prog_name="swiftrec ask",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    address: str = Field("127.0.0.1:8001", description="host:port of the server")
    query: str = Field("", description="text that describes the items to find, such as: a good western")
    history: str = Field(
        "",
        description="the user's events, oldest first, separated by |: digits are an item id, anything else is a text; "
        r"id:ABC is the item id ABC and text:1984 the text 1984, blanks included; \| is a bar within an event",
    )
    repeat: int = Field(
        1,
        ge=1,
        description="number of times to send the request, one after the other; prints the latency (a server with a "
        "cache encodes the text only once)",
    )
    top_k: int = Field(10, description="number of items")
    tls_ca: Path | None = Field(
        None, description="PEM file of the authority that signed the server's certificate; turns TLS on"
    )
    tls_cert: Path | None = Field(None, description="PEM certificate of this client (mTLS); needs --tls-key")
    tls_key: Path | None = Field(None, description="PEM private key of --tls-cert")
    token_file: Path | None = Field(None, description="file with the bearer token; the first token in it is used")
    bundle: str = Field("", description="name of the bundle to use; the server's first one if not given")

    @field_validator("address", "query", "history", "bundle")
    @classmethod
    def _is_utf8(cls, value: str) -> str:
        return require_utf8(value, "type it in a terminal that uses UTF-8")

    @field_validator("address")
    @classmethod
    def _has_host_and_port(cls, value: str) -> str:
        """Add the brackets that gRPC needs around an IPv6 address."""
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal() and 1 <= int(port) <= MAX_PORT):
            raise ValueError(
                f"must be host:port, such as localhost:8001 or [::1]:8001, with a port from 1 to {MAX_PORT}"
            )
        return join_address(parse_host(host), int(port))

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_cert and not self.tls_ca):
            raise ValueError(
                "--tls-cert and --tls-key belong together, and need --tls-ca: give all three, or only --tls-ca"
            )
        return self


def main(argv: list[str]) -> int:
    """Send the request and print the response.

    Returns:
        Exit code 0; 1 with the server's error on stderr; 2 if a flag is wrong.
    """
    try:
        settings = read_settings(AskSettings, with_flags(argv, os.environ))
        token = read_token(settings.token_file) if settings.token_file else ""
        channel = connect(settings.address, settings.tls_ca, settings.tls_cert, settings.tls_key)
    except ConfigError as error:
        sys.stderr.write(f"swiftrec ask: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"swiftrec ask: {error.filename}: {error.strerror}: name a file that can be read\n")
        return 2
    request = pb.RecommendRequest(
        history=to_events(settings.history), query=settings.query, top_k=settings.top_k, bundle=settings.bundle
    )
    with channel:
        try:
            response, latencies_ms = ask(RecommenderServiceStub(channel), request, settings.repeat, token)
        except grpc.RpcError as error:
            sys.stderr.write(f"swiftrec ask: {settings.address}: {error.code().name}: {error.details()}\n")
            return 1
    show(response)
    if settings.repeat > 1:
        percentiles = quantiles(latencies_ms, n=100)
        sys.stdout.write(
            f"{settings.repeat} requests, one after the other: p1 {percentiles[0]:.2f} ms, "
            f"p50 {median(latencies_ms):.2f} ms, p99 {percentiles[98]:.2f} ms\n"
        )
    return 0


def connect(
    address: str, authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.Channel:
    """Open a channel.

    Args:
        address: host:port of the server.
        authority: PEM file of the server's authority; turns TLS on.
        certificate: PEM certificate of the client, for servers that require one.
        key: its private key.
    """
    if authority is None:
        return grpc.insecure_channel(address)
    pair = [path.read_bytes() if path else None for path in (key, certificate)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes(), *pair))


def read_token(path: Path) -> str:
    """The first token of a token file, or ""; the server, too, skips empty lines and lines that begin with #."""
    lines = (line.strip() for line in path.read_bytes().splitlines())
    return next((line.decode() for line in lines if line and not line.startswith(b"#")), "")


def ask(
    service: RecommenderServiceStub, request: pb.RecommendRequest, times: int, token: str = ""
) -> tuple[pb.RecommendResponse, list[float]]:
    """Send the request `times` times.

    Returns:
        The last response, and the latency of each call in milliseconds.

    Raises:
        grpc.RpcError: a call failed.
    """
    latencies_ms = []
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    for _ in range(times):
        started = time.perf_counter()
        response = service.Recommend(request, timeout=_TIMEOUT_S, metadata=metadata)
        latencies_ms.append(1e3 * (time.perf_counter() - started))
    return response, latencies_ms


def to_events(history: str) -> list[pb.Event]:
    """Parse `--history`, in the syntax that its help explains; empty events are left out."""
    parts = (part.replace(r"\|", "|") for part in re.split(r"(?<!\\)\|", history))
    return [_to_event(part) for part in parts if part.strip()]


def _to_event(part: str) -> pb.Event:
    unpadded, text = part.lstrip(), part.strip()
    if unpadded.startswith(_ID):
        return pb.Event(item_id=unpadded.removeprefix(_ID))
    if unpadded.startswith(_TEXT):
        return pb.Event(text=unpadded.removeprefix(_TEXT))
    return pb.Event(item_id=text) if text.isdecimal() else pb.Event(text=text)


def show(response: pb.RecommendResponse) -> None:
    """Print the items, the time of each step and how the request was understood."""
    console, table = Console(), Table("", "title", "score", "attributes")
    for rank, item in enumerate(response.items, 1):
        attributes = "; ".join(f"{a.name} {', '.join(a.values)}" for a in item.attributes)
        table.add_row(str(rank), escape(item.title), f"{item.score:.2f}", escape(attributes))
    console.print(table)
    t = response.timings
    console.print(
        f"tokenise {t.tokenise_ms:.2f} ms, encode {t.encode_ms:.2f} ms, rank {t.rank_ms:.2f} ms, "
        f"retrieve {t.retrieve_ms:.2f} ms, total {t.total_ms:.2f} ms"
    )
    console.print("; ".join(_summary(response)), markup=False, soft_wrap=True)


def _summary(response: pb.RecommendResponse) -> Iterator[str]:
    strategy = pb.Strategy.Name(response.strategy).removeprefix("STRATEGY_").lower()
    yield f"{response.bundle} version {response.version}"
    yield f"ranked by {strategy}"
    yield f"events used: {response.events_used}"
    if response.unknown_item_ids:
        yield f"unknown item ids: {', '.join(response.unknown_item_ids)}"
    yield from (f"event {event.index + 1} is item {event.item_id}" for event in response.resolved_events)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
