"""`python -m tests.server.fuzz --requests 50000 --decode 1000000 --seed 7`: both long runs; exit code 1 on a finding.

A failure prints its seed, the number of its case and its bytes: `--start NUMBER --requests 1` runs it again.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from swiftrec.server.models.bundle import load_bundle
from tests.conftest import ROOT
from tests.server.fuzz import decode, wire
from tests.server.fuzz.mutators import Cases
from tests.server.support.process import serving

_SHOWN = 20


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000, help="over the wire")
    parser.add_argument("--decode", type=int, default=1_000_000, help="in process")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "movielens-quick")
    parser.add_argument("--module", default="swiftrec.server", help="module of the server to test")
    flags = parser.parse_args()
    failures: list[str] = []
    summary: dict[str, object] = {"seed": flags.seed}
    if flags.decode:
        inside = decode.run(
            flags.decode, flags.seed, flags.start, lambda o: say(f"decode: {o.cases} cases, {o.outcomes}")
        )
        failures += inside.failures
        summary["decode"] = {
            "cases": inside.cases,
            "outcomes": inside.outcomes,
            "slowest_s": round(inside.slowest_s, 3),
            "seconds": round(inside.seconds, 1),
        }
    if flags.requests:
        bundle = load_bundle(flags.bundle)
        with serving(bundle.folder, module=flags.module) as server:
            fuzz = wire.Fuzz(server, Cases(flags.seed, bundle.manifest.name), flags.seed)
            over = fuzz.run(flags.requests, flags.start, lambda o: say(f"wire: {o.cases} requests, {dict(o.codes)}"))
        failures += over.failures
        summary["wire"] = {
            "requests": over.cases,
            "codes": over.codes,
            "slowest_s": round(over.slowest_s, 3),
            "tried_again": over.tried_again,
            "seconds": round(over.seconds, 1),
        }
    for failure in failures[:_SHOWN]:
        say(failure)
    say(json.dumps(summary | {"failures": len(failures)}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
