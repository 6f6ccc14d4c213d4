"""`python -m tests.server.soak`: many requests against a server process; exit code 1 if its memory grows."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from swiftrec.server.models.bundle import find_bundle
from tests.server.soak.run import LIMIT_MB, Outcome, soak
from tests.server.support.process import serving


def main() -> int:
    """Read the flags and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.server.soak", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/movielens-quick"))
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--cache-mb", default="8", help="the cache is full early, so that it is not taken for a leak")
    parser.add_argument(
        "--module",
        default="swiftrec.server",
        help="what serves: swiftrec.server, swiftrec.benchmarks null-server, tests.server.soak.leaking",
    )
    flags = parser.parse_args()
    started = time.monotonic()

    def shown(sent: int, outcome: Outcome) -> None:
        rate = sent / max(1e-9, time.monotonic() - started)
        left = (flags.requests - sent) / rate if sent else 0
        sys.stderr.write(f"\r{sent:,} of {flags.requests:,}, {outcome.memory_mb[-1]:.0f} MB, {left:.0f} s left ")

    with serving(
        find_bundle(flags.bundle), "--log-level", "error", "--cache-mb", flags.cache_mb, module=flags.module
    ) as server:
        outcome = soak(server, flags.requests, flags.seed, shown)
    sys.stderr.write("\n")
    facts = {
        "requests": flags.requests,
        "seconds": round(time.monotonic() - started, 1),
        "growth_mb": round(outcome.growth_mb, 2),
        "limit_mb": LIMIT_MB,
        "first_mb": round(outcome.memory_mb[0], 1),
        "last_mb": round(outcome.memory_mb[-1], 1),
        "memory_mb": [round(value) for value in outcome.memory_mb[::10]],
        "codes": dict(outcome.codes),
    }
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0 if outcome.is_steady else 1


if __name__ == "__main__":
    sys.exit(main())
