"""`python -m benchmarks COMMAND`: see --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.fronts import fronts
from benchmarks.ratio import ratio


def main() -> int:
    """Read the flags and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measurements of the serving engine.")
    commands = parser.add_subparsers(dest="command", required=True)
    front = commands.add_parser("fronts", help="gRPC's thread-pool server against its asyncio server")
    front.add_argument("--repeats", type=int, default=3)
    front.add_argument("--requests", type=int, default=4_000)
    share = commands.add_parser("ratio", help="work ratio and overhead of the server, in CPU time on one core")
    share.add_argument("--bundle", type=Path, default=Path("artifacts/movielens-quick"))
    share.add_argument("--repeats", type=int, default=3)
    share.add_argument("--texts", type=int, default=3_000)
    share.add_argument("--server-flags", default="", help="more flags for the server, in one string")
    flags = parser.parse_args()
    match flags.command:
        case "fronts":
            fronts(flags.repeats, flags.requests)
        case "ratio":
            ratio(flags.bundle, flags.repeats, flags.texts, flags.server_flags.split())
    return 0


if __name__ == "__main__":
    sys.exit(main())
