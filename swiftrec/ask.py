"""`swiftrec ask`: ask a running server and print a ranked table."""

from __future__ import annotations

import os
import re
import sys
import time
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
from swiftrec.server.config import read_settings, require_utf8
from swiftrec.server.errors import ConfigError
from swiftrec.server.flags import with_flags
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub

_ID, _TEXT = "id:", "text:"


class AskSettings(BaseSettings):
    """Ask a running server and print a ranked table. Each flag is a variable, too: --query is SWIFTREC_ASK_QUERY."""

    model_config = SettingsConfigDict(
        env_prefix="SWIFTREC_ASK_",
        cli_prog_name="swiftrec ask",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    address: str = Field("127.0.0.1:8001", description="host:port of the server")
    query: str = Field("", description="what is wanted, in plain words")
    history: str = Field(
        "",
        description="events, oldest first, separated by |: digits are an item id, other words a text; id:ABC is the "
        r"item id ABC and text:1984 the text 1984, with all blanks; \| is a bar inside an event",
    )
    repeat: int = Field(
        1,
        ge=1,
        description="send the request so many times, one by one, and print the latency (a server with a cache encodes "
        "the text once)",
    )
    top_k: int = Field(10, description="how many items")
    tls_ca: Path | None = Field(None, description="PEM authority of the server's certificate: turns TLS on")
    tls_cert: Path | None = Field(None, description="PEM certificate of this client, with --tls-key (mTLS)")
    tls_key: Path | None = Field(None, description="PEM private key of --tls-cert")
    token_file: Path | None = Field(None, description="file with the bearer token: its first line that has one")
    bundle: str = Field("", description="name of the bundle that should answer (default: the server's first)")

    @field_validator("address", "query", "history", "bundle")
    @classmethod
    def _is_utf8(cls, value: str) -> str:
        return require_utf8(value, "type it in a terminal that uses UTF-8")

    @field_validator("address")
    @classmethod
    def _has_host_and_port(cls, value: str) -> str:
        """As gRPC takes it: an IPv6 address gets its brackets."""
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
                "--tls-cert and --tls-key go together, and with --tls-ca: give all three, or only --tls-ca"
            )
        return self


def main(argv: list[str]) -> int:
    """Exit code 0, or 1 with the server's sentence on stderr, or 2 if a flag is wrong."""
    try:
        settings = read_settings(AskSettings, with_flags(argv, os.environ))
        token = read_token(settings.token_file) if settings.token_file else ""
        channel = connect(settings.address, settings.tls_ca, settings.tls_cert, settings.tls_key)
    except ConfigError as error:
        sys.stderr.write(f"ask: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"ask: {error.filename}: {error.strerror}: name a file that can be read\n")
        return 2
    request = pb.RecommendRequest(
        history=to_events(settings.history), query=settings.query, top_k=settings.top_k, bundle=settings.bundle
    )
    with channel:
        try:
            reply, latencies = ask(RecommenderServiceStub(channel), request, settings.repeat, token)
        except grpc.RpcError as error:
            sys.stderr.write(f"ask: {settings.address}: {error.code().name}: {error.details()}\n")
            return 1
    show(reply)
    if settings.repeat > 1:
        low, middle, high = quantiles(latencies, n=100)[0], median(latencies), quantiles(latencies, n=100)[98]
        sys.stdout.write(
            f"{settings.repeat} calls, one by one: p1 {low:.2f} ms, p50 {middle:.2f} ms, p99 {high:.2f} ms\n"
        )
    return 0


def connect(
    address: str, authority: Path | None, certificate: Path | None = None, key: Path | None = None
) -> grpc.Channel:
    """A channel: with TLS if an authority is given, and with a certificate of the client's own if that is, too."""
    if authority is None:
        return grpc.insecure_channel(address)
    own = [path.read_bytes() if path else None for path in (key, certificate)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes(), *own))


def read_token(path: Path) -> str:
    """The first token of a file as the server reads it: empty lines and lines that begin with # do not count."""
    lines = (line.strip() for line in path.read_bytes().splitlines())
    return next((line.decode() for line in lines if line and not line.startswith(b"#")), "")


def ask(
    stub: RecommenderServiceStub, request: pb.RecommendRequest, times: int, token: str = ""
) -> tuple[pb.RecommendResponse, list[float]]:
    """Send the request `times` times; return the last reply and the latency of each call in milliseconds."""
    latencies = []
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    for _ in range(times):
        started = time.perf_counter()
        reply = stub.Recommend(request, timeout=10, metadata=metadata)
        latencies.append(1e3 * (time.perf_counter() - started))
    return reply, latencies


def to_events(history: str) -> list[pb.Event]:
    """The events of `--history`, as its help explains; empty ones are left out."""
    parts = (part.replace(r"\|", "|") for part in re.split(r"(?<!\\)\|", history))
    return [_to_event(part) for part in parts if part.strip()]


def _to_event(part: str) -> pb.Event:
    marked, words = part.lstrip(), part.strip()
    if marked.startswith(_ID):
        return pb.Event(item_id=marked.removeprefix(_ID))
    if marked.startswith(_TEXT):
        return pb.Event(text=marked.removeprefix(_TEXT))
    return pb.Event(item_id=words) if words.isdecimal() else pb.Event(text=words)


def show(reply: pb.RecommendResponse) -> None:
    """Print items, then how the answer came about."""
    console, table = Console(), Table("", "title", "score", "attributes")
    for n, item in enumerate(reply.items, 1):
        attributes = "; ".join(f"{a.name} {', '.join(a.values)}" for a in item.attributes)
        table.add_row(str(n), escape(item.title), f"{item.score:.2f}", escape(attributes))
    console.print(table)
    t = reply.timings
    console.print(
        f"tokenise {t.tokenise_ms:.2f} ms, encode {t.encode_ms:.2f} ms, rank {t.rank_ms:.2f} ms, "
        f"retrieve {t.retrieve_ms:.2f} ms, total {t.total_ms:.2f} ms"
    )
    ignored = f"; ignored: {', '.join(reply.ignored)}" if reply.ignored else ""
    named = [f"event {event.index + 1} is item {event.item_id}" for event in reply.resolved_events]
    strategy = pb.Strategy.Name(reply.strategy).removeprefix("STRATEGY_").lower()
    told = f"{reply.bundle} version {reply.version}, by {strategy}, {reply.events_used} events read{ignored}"
    told = "; ".join([told, *named])
    console.print(told, markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
