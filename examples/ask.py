"""`python -m examples.ask`: ask a running server and print a ranked table."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median, quantiles

import grpc
from rich.console import Console
from rich.table import Table

from server.pb.swiftrec.v1 import recommender_pb2 as pb
from server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from server.version import add_version_flag


def main() -> int:
    """Exit code 0, or 1 with the server's sentence on stderr."""
    parser = argparse.ArgumentParser(description="Ask a running server and print a ranked table.")
    parser.add_argument("--address", default="127.0.0.1:8001", help="host:port of the server (default %(default)s)")
    parser.add_argument("--query", default="", help="what is wanted, in plain words")
    parser.add_argument(
        "--history", default="", help="events, oldest first, separated by |: item ids (digits) or texts"
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help="ask so often, one by one, and print the latency (a server with a cache encodes the text once)",
    )
    parser.add_argument("--top-k", type=int, default=10, help="how many items (default %(default)s)")
    parser.add_argument("--tls-ca", type=Path, help="PEM authority of the server's certificate: turns TLS on")
    parser.add_argument("--tls-cert", type=Path, help="PEM certificate of this client, with --tls-key (mTLS)")
    parser.add_argument("--tls-key", type=Path, help="PEM private key of --tls-cert")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token: its first line that has one")
    parser.add_argument("--bundle", default="", help="bundle that shall answer (default: the server's first)")
    add_version_flag(parser)
    args = parser.parse_args()
    if (args.tls_cert is None) != (args.tls_key is None) or (args.tls_cert and not args.tls_ca):
        parser.error("--tls-cert and --tls-key go together, and with --tls-ca")
    history = [to_event(part.strip()) for part in args.history.split("|") if part.strip()]
    request = pb.RecommendRequest(history=history, query=args.query, top_k=args.top_k, bundle=args.bundle)
    token = read_token(args.token_file) if args.token_file else ""
    with connect(args.address, args.tls_ca, args.tls_cert, args.tls_key) as channel:
        try:
            reply, latencies = ask(RecommenderServiceStub(channel), request, args.repeat, token)
        except grpc.RpcError as error:
            sys.stderr.write(f"ask: {args.address}: {error.code().name}: {error.details()}\n")
            return 1
    show(reply)
    if args.repeat > 1:
        low, middle, high = quantiles(latencies, n=100)[0], median(latencies), quantiles(latencies, n=100)[98]
        sys.stdout.write(f"{args.repeat} calls, one by one: p1 {low:.2f} ms, p50 {middle:.2f} ms, p99 {high:.2f} ms\n")
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
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def ask(
    stub: RecommenderServiceStub, request: pb.RecommendRequest, times: int, token: str = ""
) -> tuple[pb.RecommendResponse, list[float]]:
    """Send the request `times` times; return the last reply and the latency of each call in milliseconds."""
    latencies = []
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    for _ in range(max(1, times)):
        started = time.perf_counter()
        reply = stub.Recommend(request, timeout=10, metadata=metadata)
        latencies.append(1e3 * (time.perf_counter() - started))
    return reply, latencies


def to_event(part: str) -> pb.Event:
    """Digits are an item id, everything else is a text."""
    return pb.Event(item_id=part) if part.isdecimal() else pb.Event(text=part)


def show(reply: pb.RecommendResponse) -> None:
    """Print items, then how the answer came about."""
    console, table = Console(), Table("", "title", "score", "attributes")
    for n, item in enumerate(reply.items, 1):
        attributes = "; ".join(f"{a.name} {', '.join(a.values)}" for a in item.attributes)
        table.add_row(str(n), item.title, f"{item.score:.2f}", attributes)
    console.print(table)
    t = reply.timings
    console.print(
        f"tokenise {t.tokenise_ms:.2f} ms, encode {t.encode_ms:.2f} ms, rank {t.rank_ms:.2f} ms, "
        f"retrieve {t.retrieve_ms:.2f} ms, total {t.total_ms:.2f} ms"
    )
    ignored = f"; ignored: {', '.join(reply.ignored)}" if reply.ignored else ""
    strategy = pb.Strategy.Name(reply.strategy).removeprefix("STRATEGY_").lower()
    console.print(f"{reply.bundle} version {reply.version}, by {strategy}, {reply.events_used} events read{ignored}")


if __name__ == "__main__":
    sys.exit(main())
