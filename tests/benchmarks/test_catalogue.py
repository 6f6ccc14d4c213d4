"""`swiftrec bench catalogue` with a small one."""

from __future__ import annotations

import json
import subprocess
import sys

from swiftrec.server.models.bundle import Bundle
from tests.conftest import ROOT


def test_exact_and_approximate_stand_side_by_side_under_every_filter(bundle: Bundle) -> None:
    command = [
        sys.executable,
        "-m",
        "swiftrec.benchmarks",
        "catalogue",
        "--bundle",
        str(bundle.folder),
        "--items",
        "3000",
    ]
    ended = subprocess.run(
        [*command, "--users", "20", "--repeats", "1"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])["catalogue"]
    assert [(row["items"], row["index"]) for row in rows] == [(3_000, "exact"), (3_000, "approximate")]
    for row in rows:
        kinds = {"history", "query", "history and query"}
        assert set(row["search"]) == kinds | {f"history and query, {share} %" for share in (50, 10, 1)}
        assert set(row["whole"]) == kinds | {"history and query, 10 %"}
        assert min(found["recall"] for found in row["search"].values()) >= 0.99
        assert all(
            0 < found["p50_ms"] <= found["p99_ms"] for found in (*row["search"].values(), *row["whole"].values())
        )
        assert row["memory_mb"] > 0
    assert rows[1]["build_s"] > 0
    assert rows[1]["index_mb"] > 0
