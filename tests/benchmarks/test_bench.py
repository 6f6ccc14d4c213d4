"""The benchmark suite as it is run: a whole smoke run, what an open loop shows, and what goes wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from pyarrow import parquet

from swiftrec.benchmarks import result_files
from swiftrec.benchmarks.recording import FORMAT, Recording
from swiftrec.benchmarks.server_process import ServerProcess, running_server
from swiftrec.benchmarks.statistics import RequestRows
from swiftrec.benchmarks.suite.result import Result
from swiftrec.server.models.bundle import Bundle
from tests.conftest import ROOT
from tests.server.support.bundles import copy, seal

_PAUSE_S = 1.0
_PAUSE = ("--pause-after-s", "0.5", "--pause-s", f"{_PAUSE_S}")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    whole = [sys.executable, "-m", "swiftrec.benchmarks", *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def load(server: ServerProcess, bundle: Bundle, *flags: str) -> subprocess.CompletedProcess[str]:
    return command("load", "--target", server.address, "--bundle", str(bundle.folder), "--warmup-s", "0", *flags)


def figures(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.stdout, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def echo(bundle: Bundle) -> Iterator[ServerProcess]:
    with running_server(["-m", "swiftrec.benchmarks", "echo", "--bundle", str(bundle.folder)], core=None) as served:
        yield served


@pytest.fixture(scope="module")
def smoke(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results folder and stdout of a smoke run."""
    results = tmp_path_factory.mktemp("results")
    ended = command("bench", "--size", "smoke", "--bundle", str(bundle.folder), "--results", str(results))
    assert ended.returncode == 0, ended.stderr
    return next(results.iterdir()), ended.stdout


def test_run_is_complete_and_its_last_line_is_the_result(smoke: tuple[Path, str]) -> None:
    folder, stdout = smoke
    result = result_files.load(folder, Result)
    last = Result.model_validate_json(stdout.splitlines()[-1])
    assert not result.is_partial
    assert last.model_dump_json() == result.model_dump_json()
    for name in ("mixed", "list"):
        workload = result.workloads[name]
        assert min(workload.floor_us.median, workload.echo_us.median, workload.server_us.median) > 0
        assert 0.1 < workload.work_ratio.median < 2
        assert workload.batch_jobs.median >= 1
    assert min(result.alone_p50_ms, result.batch_per_s) > 0
    assert np.isfinite(result.bound_per_s)
    assert set(result.parts) == {"tokeniser", "session", "queue", "index", "serialisation"}
    assert result.startup_s.median > 0
    assert result.memory_mb > 50


def test_report_is_one_file_that_fetches_nothing(smoke: tuple[Path, str]) -> None:
    page = (smoke[0] / "report.html").read_text()
    assert page.count("<svg") == 4
    assert not re.search(r"<(script|img|iframe)[^>]* src=", page)
    assert "<link" not in page


def test_raw_rows_give_the_same_figures(smoke: tuple[Path, str]) -> None:
    rows = parquet.read_table(smoke[0] / "rows.parquet").to_pydict()
    for number, point in enumerate(result_files.load(smoke[0], Result).points):
        here = [n for n, window in enumerate(rows["window"]) if window == number]
        latencies = [1e3 * (rows["done"][n] - rows["intended"][n]) for n in here if rows["code"][n] == 0]
        assert len(here) == point.requests
        if latencies:
            assert np.percentile(latencies, 50) == pytest.approx(point.p50_ms)


def test_hdr_logs_can_be_read_again(smoke: tuple[Path, str]) -> None:
    point = result_files.load(smoke[0], Result).points[0]
    path = next((smoke[0] / "hdr").glob("000-*.hlog"))
    reader = HistogramLogReader(str(path), HdrHistogram(1, 3_600_000_000, 3))
    result = reader.get_next_interval_histogram()
    assert result.get_total_count() == point.requests - point.failed
    assert result.get_value_at_percentile(50) == pytest.approx(1e3 * point.p50_ms, rel=0.02)


def test_summary_has_the_run(smoke: tuple[Path, str]) -> None:
    result = json.loads(command("summary", "--json", "--results", str(smoke[0].parent)).stdout)
    assert set(result["work_ratio"]) == {"mixed", "list"}
    assert set(result["req_per_s_core"]) == {"swiftrec", "swiftrec BatchRecommend"}
    assert {"machine", "commit", "p99_ms_at_70", "peers_skipped", "catalogue"} <= set(result)


def test_report_has_a_headline_the_slo_and_each_nine_as_wide_as_the_others(smoke: tuple[Path, str]) -> None:
    page = (smoke[0] / "report.html").read_text()
    assert re.search(r'class="headline">One core gives [\d,]+ recommendations per second of CPU time on mixed', page)
    assert "SLO 100 ms: at most " in page
    assert "one of this many requests is slower" in page


def test_mixed_is_measured_without_the_cache(smoke: tuple[Path, str]) -> None:
    result = result_files.load(smoke[0], Result)
    assert result.workloads["mixed"].has_cache is False
    assert result.workloads["mixed"].cache_hits.median == 0
    assert "the server's cache is off" in result.notes


def test_hot_is_measured_with_the_cache_for_a_transformer_variant(bundle: Bundle, tmp_path: Path) -> None:
    variant = next(name for name in sorted(bundle.manifest.variants) if re.match("bert.*-fp32", name))
    flags = ["--size", "smoke", "--bundle", str(bundle.folder), "--results", str(tmp_path), "--variant", variant]
    ended = command("bench", *flags, "--workloads", "mixed", "--workloads", "hot")
    assert ended.returncode == 0, ended.stderr
    result = result_files.load(next(tmp_path.iterdir()), Result)
    assert result.bundle["variant"] == variant
    assert {name: item.has_cache for name, item in result.workloads.items()} == {"mixed": False, "hot": True}
    assert result.workloads["hot"].cache_hits.median > 0
    assert "the server's cache is on for hot and off for the others" in result.notes


def test_more_clients_than_requests_are_no_matter(echo: ServerProcess, bundle: Bundle, tmp_path: Path) -> None:
    result = figures(load(echo, bundle, "--in-flight", "1", "--processes", "2", "--seconds", "0.5"))
    assert result["failed"] == 0
    assert result["requests"] > 0
    assert result["mix"] == pytest.approx(1, abs=0.2)
    calls = tmp_path / "calls.jsonl"
    seen = {"t": 0.0, "requests": [{"query": ["m", 5]}]}
    calls.write_text("\n".join(map(json.dumps, [{"format": FORMAT, "method": "recommend"}, seen])))
    replayed = load(echo, bundle, "--recording", str(calls), "--processes", "2")
    assert figures(replayed)["requests"] == 1
    assert figures(replayed)["mean_tokens"] == 5


def stalled(bundle: Bundle, rows: Path, *loop: str) -> int:
    """How many requests waited for more than half of the server's stall."""
    with running_server(["-m", "swiftrec.benchmarks", "echo", *_PAUSE], core=None) as server:
        load(server, bundle, *loop, "--seconds", "2", "--rows", str(rows))
    result = RequestRows.load(rows)
    return int((result.done - result.intended > _PAUSE_S / 2).sum())


def test_a_stall_shows_in_the_open_loop_and_is_hidden_in_a_closed_one(bundle: Bundle, tmp_path: Path) -> None:
    """Why there is an open loop: in the closed one only the request under way met the stall."""
    shown = stalled(bundle, tmp_path / "open.npz", "--loop", "open", "--rate", "100")
    hidden = stalled(bundle, tmp_path / "closed.npz", "--in-flight", "1", "--cycle", "--requests", "100")
    assert shown > 10 * max(1, hidden)


def test_late_sends_are_counted_and_a_client_that_cannot_keep_up_fails(echo: ServerProcess, bundle: Bundle) -> None:
    ended = load(echo, bundle, "--loop", "open", "--rate", "50000", "--seconds", "0.3")
    result = figures(ended)
    assert ended.returncode == 1
    assert "the client is the bottleneck" in ended.stderr
    assert result["late"] > 0.5 * result["requests"]


def test_constant_arrivals_come_at_even_intervals(echo: ServerProcess, bundle: Bundle, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npz"
    load(echo, bundle, "--loop", "open", "--pattern", "constant", "--rate", "50", "--seconds", "1", "--rows", str(rows))
    gaps = np.diff(np.sort(RequestRows.load(rows).intended))
    assert gaps == pytest.approx(np.full(len(gaps), 0.02), abs=1e-6)


def test_several_clients_share_one_schedule(echo: ServerProcess, bundle: Bundle) -> None:
    item, three = (
        figures(load(echo, bundle, "--loop", "open", "--rate", "200", "--seconds", "1", "--processes", number))
        for number in ("1", "3")
    )
    assert item["requests"] == three["requests"]
    assert three["failed"] == 0


def test_recorded_calls_are_replayed_without_their_texts(echo: ServerProcess, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    flags = ["--target", echo.address, "--output", str(path), "--bundle", str(bundle.folder)]
    with running_server(["-m", "swiftrec.benchmarks", "record", *flags], core=None) as proxy:
        sent = load(proxy, bundle, "--workload", "hot", "--loop", "open", "--rate", "100", "--seconds", "1")
    replayed = load(echo, bundle, "--recording", str(path), "--speed", "2")
    assert figures(sent)["failed"] == figures(replayed)["failed"] == 0
    assert figures(replayed)["requests"] == figures(sent)["requests"]
    assert figures(replayed)["mean_tokens"] == pytest.approx(figures(sent)["mean_tokens"])
    assert figures(replayed)["seconds"] == pytest.approx(0.5 * Recording.load(path).times[-1], abs=0.01)


def test_no_server_at_the_address_is_a_sentence(bundle: Bundle, tmp_path: Path) -> None:
    flags = ["--size", "smoke", "--bundle", str(bundle.folder), "--results", str(tmp_path)]
    ended = command("bench", *flags, "--target", "127.0.0.1:9")
    assert ended.returncode == 2
    assert "nothing responds at 127.0.0.1:9" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_bundle_than_the_servers_is_a_sentence(echo: ServerProcess, bundle: Bundle, tmp_path: Path) -> None:
    other = copy(bundle, tmp_path / "other" / "99")
    seal(other, version=99)
    ended = command("bench", "--size", "smoke", "--bundle", str(other), "--target", echo.address)
    assert ended.returncode == 2
    assert "give --bundle the served one" in ended.stderr
    missing = command("bench", "--size", "smoke", "--bundle", str(tmp_path / "nothing"))
    assert missing.returncode == 2
    assert "run swiftrec export" in missing.stderr


def test_a_server_that_dies_leaves_a_partial_result(bundle: Bundle, tmp_path: Path) -> None:
    flags = ["--size", "smoke", "--bundle", str(bundle.folder), "--results", str(tmp_path)]
    with running_server(["-m", "swiftrec.benchmarks", "echo", "--bundle", str(bundle.folder)], core=None) as server:
        whole = [sys.executable, "-m", "swiftrec.benchmarks", "bench", *flags, "--target", server.address]
        with subprocess.Popen(whole, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr is not None
            assert run.stdout is not None
            stderr = ""
            for line in run.stderr:
                stderr += line
                if "closed loop" in line and "closed loop" not in stderr.removesuffix(line):
                    os.kill(server.pid or 0, 9)
            stdout = run.stdout.read()
    assert run.returncode == 1
    assert "partial: " in stderr
    assert "Traceback" not in stderr
    result = result_files.load(next(tmp_path.iterdir()), Result)
    assert result.is_partial
    assert server.address in result.reason
    assert len(result.points) >= 2
    assert Result.model_validate_json(stdout.splitlines()[-1]).is_partial


def test_a_gpu_that_is_not_there_is_a_sentence(bundle: Bundle) -> None:
    ended = command("bench", "--size", "smoke", "--bundle", str(bundle.folder), "--device", "cuda")
    assert ended.returncode == 2
    assert ended.stderr.strip().endswith("this onnxruntime finds no GPU, nothing was measured: leave --device out")
