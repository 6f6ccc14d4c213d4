"""Each command that prints a promised figure runs to its end against a small load."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from swiftrec.benchmarks import measure
from swiftrec.benchmarks.__main__ import main
from swiftrec.benchmarks.fair import dear_requests
from swiftrec.server.models.bundle import Bundle
from swiftrec.server.pb.swiftrec.v1.recommender_pb2 import BatchRecommendRequest, RecommendRequest
from tests.conftest import ROOT

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the bundle and gives the JSON of its last line. A goal may be missed on a busy machine."""
    monkeypatch.setattr(measure, "load", partial(measure.load, may_limit=True))

    def run(*command: str) -> dict[str, Any]:
        code = main([command[0], "--bundle", str(bundle.folder), *command[1:]])
        said = capsys.readouterr()
        assert code in {0, 1}, said.err
        found: dict[str, Any] = json.loads(said.out.splitlines()[-1])
        assert not found.get("partial")
        return found | {"code": code}

    return run


def test_server_is_measured_beside_the_tree_of_another_commit(run: Run) -> None:
    flags = ["--tree", str(ROOT), "--repeats", "1", "--seconds", "0.5", "--warmup-s", "0.2", "--requests", "4000"]
    found = run("against", *flags, "--workload", "query", "--in-flight", "8")
    assert [pair["workload"] for pair in found["pairs"]] == ["query"]
    assert all(pair[whose]["server_us"] > 0 for pair in found["pairs"] for whose in ("ours", "theirs"))


def test_swaps_under_load_give_no_error_and_no_mixed_answer(run: Run) -> None:
    found = run("swaps", "--swaps", "3", "--in-flight", "4", "--requests", "16")
    assert (found["errors"], found["mixed"], found["code"]) == ({}, 0, 0)
    assert found["answers"] >= 4


def test_what_others_notice_of_dear_requests_is_measured(run: Run) -> None:
    found = run("fair", "--repeats", "1", "--seconds", "0.5", "--health-rate", "800", "--rate", "20")
    assert len({one["dear"] for one in found["measured"]}) == 3
    assert all(one[when]["others_ms"] > 0 for one in found["measured"] for when in ("alone", "beside"))
    assert all(one["dear_codes"].get("0") for one in found["measured"])  # a dear request is valid


def test_dear_requests_are_as_large_as_is_said(bundle: Bundle) -> None:
    lists, tops, filters = dear_requests(bundle.folder, 7).values()
    entries = BatchRecommendRequest.FromString(lists.payloads[0]).requests
    assert (len(entries), {len(one.history) for one in entries}) == (256, {20})
    assert sum(one.top_k for one in BatchRecommendRequest.FromString(tops.payloads[-1]).requests) == 20_000
    (condition,) = RecommendRequest.FromString(filters.payloads[0]).filter.any_of
    assert len({*condition.values}) == 600


def test_overload_of_a_served_bundle_counts_the_same_on_both_sides(run: Run) -> None:
    found = run("overload", "--variant", "static-int8", "--workload", "query", "--times", "2", "--seconds", "0.5")
    assert len(found["steps"]) == 1
    assert found["steps"][0] > 0
    assert found["counts"] == [{}]
