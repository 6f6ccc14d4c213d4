"""Repeated interactions and users with nearly all items: evaluation ranks as the server does."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from rich.console import Console
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc import service_pb2_grpc as triton_grpc

from swiftrec.export.config import ExportSettings
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.repeats import Repeats
from swiftrec.export.errors import GateError
from swiftrec.export.job import Job
from swiftrec.export.schema.final import EXPECTED
from swiftrec.export.schema.quality import Quality
from swiftrec.export.stages.runner import run_all
from swiftrec.server.app import App
from swiftrec.server.config import ServerSettings
from swiftrec.server.models.bundle import Bundle, load_bundle
from swiftrec.server.pb.swiftrec.v1 import recommender_pb2 as pb
from swiftrec.server.pb.swiftrec.v1.recommender_pb2_grpc import RecommenderServiceStub
from tests.export.checkpoints import WORDS, save_bert

_ITEMS, _USERS, _SEEN = 50, 40, 46
_ALIKE = 2  # items with one title


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT, and 40 users who interact with 46 of 50 items, each row written twice."""
    made, rng = tmp_path_factory.mktemp("repeats"), random.Random(1)
    (made / "data").mkdir()
    items = [{"item_id": f"i{n}", "text": " ".join(rng.sample(WORDS, 3)), "kind": WORDS[n % 3]} for n in range(_ITEMS)]
    events = [
        {"user_id": f"u{u}", "item_id": f"i{n}", "timestamp": t}
        for u in range(_USERS)
        for t, n in enumerate(rng.sample(range(_ITEMS), _SEEN))
        for _ in range(2)
    ]
    (made / "data" / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (made / "data" / "interactions.jsonl").write_text("\n".join(map(json.dumps, events)))
    save_bert(made / "bert", [*WORDS, "good", "a"], width=16, layers=1, heads=2)
    return made


def exported(folder: Path, name: str, *flags: str) -> tuple[Job, str]:
    """Run every stage of the smoke preset; the job and what it printed."""
    given = ["--preset", "smoke", "--name", name, "--students", "static", "--int8-target", "avx2", "--allow-lossy"]
    given += ["--data", str(folder / "data"), "--checkpoint", str(folder / "bert"), "--batch", "8", *flags]
    console = Console(width=300, record=True, quiet=False, file=(folder / f"{name}.log").open("w"))
    job = Job(ExportSettings(artifacts=folder, _cli_parse_args=given), console)
    try:
        run_all(job)
    finally:
        console.file.close()
    return job, (folder / f"{name}.log").read_text()


@pytest.fixture(scope="module")
def excluded(folder: Path) -> tuple[Job, str]:
    return exported(folder, "excluded")


@pytest.fixture(scope="module")
def allowed(folder: Path) -> tuple[Job, str]:
    return exported(folder, "allowed", "--repeats", "allow")


def packaged(job: Job) -> tuple[Bundle, Quality]:
    bundle = load_bundle(job.settings.artifacts / job.settings.name)
    return bundle, Quality.model_validate(bundle.manifest.quality)


def expected(job: Job) -> list[dict[str, list[str]]]:
    rows: list[dict[str, list[str]]] = json.loads((job.folder("final") / EXPECTED).read_text())
    return rows


def named(job: Job, row: dict[str, list[str]]) -> set[str]:
    """The items that a request names by a title which no other item has."""
    titles = [item.title for item in Dataset.load(job.folder("data")).items]
    return {f"i{titles.index(text)}" for text in row["texts"] if titles.count(text) == 1}


def test_users_with_few_items_left_have_short_lists_and_the_export_finishes(excluded: tuple[Job, str]) -> None:
    job, _ = excluded
    bundle, quality = packaged(job)
    assert bundle.manifest.exclude_history
    assert quality.packaged is not None
    assert quality.packaged.value == 1.0
    for row in expected(job):
        assert 0 < len(row["top"]) < 10
        assert not {*row["top"]} & named(job, row)
        assert _ITEMS - _ALIKE <= len(row["top"]) + len(named(job, row)) <= _ITEMS


def test_baseline_hits_are_limited_to_its_lists(excluded: tuple[Job, str]) -> None:
    """With every row written twice and the target in its own history, item kNN had a recall of 1."""
    _, quality = packaged(excluded[0])
    lists = quality.lists["item kNN"]
    assert lists.recall.mean == 1.0  # each target is among the few items that are left
    assert quality.tasks["item kNN"]["ids"].mean < 0.9
    assert quality.cases["warm"] == _USERS


def test_repeated_events_are_counted_once_or_all(excluded: tuple[Job, str], allowed: tuple[Job, str]) -> None:
    counts = []
    for job, printed in (excluded, allowed):
        assert f"{_USERS * _SEEN:,} of the same user and item as an earlier one" in printed
        bundle, _ = packaged(job)
        rows = [json.loads(line) for line in (bundle.folder / "items.jsonl").read_bytes().splitlines()]
        counts.append(sum(row["popularity"] for row in rows))
        assert len(np.concatenate(Dataset.load(job.folder("data")).histories)) == 2 * _USERS * _SEEN
    assert counts == [_USERS * _SEEN, 2 * _USERS * _SEEN]


def test_repeats_that_are_allowed_are_recommended_and_expected(allowed: tuple[Job, str]) -> None:
    bundle, quality = packaged(allowed[0])
    assert not bundle.manifest.exclude_history
    assert quality.repeats == "allow"
    for row in expected(allowed[0]):
        assert len(row["top"]) == 10


def test_export_ends_with_the_baselines_it_does_not_beat(excluded: tuple[Job, str]) -> None:
    job, printed = excluded
    _, quality = packaged(job)
    assert [comparison.task for comparison in quality.comparisons] == [*quality.tasks["frozen encoder"]]
    after = printed.partition("  bundle: ")[2]
    assert [line.strip() for line in after.splitlines()[1:-1]] == quality.warnings


def test_required_baselines_stop_an_export_that_does_not_beat_them(
    folder: Path, allowed: tuple[Job, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows written twice make the last item the next one, which transitions find and an untrained model does not."""
    _, quality = packaged(allowed[0])
    assert any(comparison.loses for comparison in quality.comparisons)
    versions = [*(folder / "allowed").iterdir()]
    with pytest.raises(GateError, match=r"--require-baselines: ids: .* loses to "):
        exported(folder, "allowed", "--repeats", "allow", "--require-baselines")
    assert [*(folder / "allowed").iterdir()] == versions
    fresh = folder / "early"
    with pytest.raises(GateError, match=r"--require-baselines: ids: teacher loses to "):
        exported(folder, "early", "--repeats", "allow", "--require-baselines")
    assert not fresh.exists()
    assert {path.name for path in (folder / ".stages" / "early").iterdir()} == {".lock", "data", "finetune", "blend"}


@pytest.fixture(scope="module")
def channel(excluded: tuple[Job, str], allowed: tuple[Job, str]) -> Iterator[grpc.Channel]:
    """A server of both bundles."""
    folders = [packaged(job)[0].folder for job, _ in (excluded, allowed)]
    app = App(ServerSettings(bundle=folders, port=0, metrics_port=0, _cli_parse_args=[]))
    app.start()
    with grpc.insecure_channel(f"127.0.0.1:{app.port}") as opened:
        yield opened
    app.stop()


@pytest.mark.parametrize(("bundle", "repeats"), [("excluded", "exclude"), ("allowed", "allow")])
def test_server_leaves_out_the_history_as_the_bundle_says_on_both_protocols(
    channel: grpc.Channel, bundle: str, repeats: Repeats
) -> None:
    history = [pb.Event(item_id=f"i{n}") for n in range(5)]
    request = pb.RecommendRequest(history=history, top_k=_ITEMS, bundle=bundle)
    native = RecommenderServiceStub(channel).Recommend(request, timeout=10)
    left = _ITEMS if repeats == "allow" else _ITEMS - 5
    assert len(native.items) == left
    request.exclude_history = repeats == "allow"  # a request that says otherwise has its way
    assert len(RecommenderServiceStub(channel).Recommend(request, timeout=10).items) == (_ITEMS * 2 - 5) - left

    infer = triton_pb.ModelInferRequest(model_name="recommender")
    infer.parameters["bundle"].string_param = bundle
    events = infer.inputs.add(name="HISTORY", datatype="BYTES", shape=[1, 5])
    events.contents.bytes_contents.extend(f"i{n}".encode() for n in range(5))
    size = infer.inputs.add(name="K", datatype="INT32", shape=[1, 1])
    size.contents.int_contents.append(_ITEMS)
    reply = triton_grpc.GRPCInferenceServiceStub(channel).ModelInfer(infer, timeout=10)
    scores = np.frombuffer(reply.raw_output_contents[[output.name for output in reply.outputs].index("SCORE")], "<f4")
    assert np.isfinite(scores).sum() == left
