"""Stage `final`: the served model is trained on all events, and reports say which model each figure is of."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from swiftrec.export.checkpoints.head import Head, HeadShape
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.order import Order
from swiftrec.export.data.popularity import interaction_counts
from swiftrec.export.data.split import Cases, Protocol, leave_one_out
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate import final_comparison
from swiftrec.export.evaluate.recommender import EvaluatedRecommender, Rank
from swiftrec.export.job import Job
from swiftrec.export.report.command import load_quality
from swiftrec.export.report.command import main as report
from swiftrec.export.report.record_json import as_json
from swiftrec.export.schema.final import EXPECTED, FINAL, POPULARITY, FinalRecord, trained_again
from swiftrec.export.stages import package
from swiftrec.export.stages.order import STAGES
from swiftrec.export.stages.runner import stage_key
from swiftrec.export.train.refit import best_epoch
from swiftrec.server.catalogue.memory import Memory
from swiftrec.server.domain import Request, TextEvent
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.pipeline.recommender import Recommender as Engine
from tests.export.tiny import StoppedJob, dataset, job, run_stages

_FLAGS = ("--students", "static", "--allow-lossy")


def made(folder: Path, *flags: str, adopted: bool = False) -> StoppedJob:
    """A job with every stage up to `final`, on a data set with one cold item."""
    element = job(folder, *_FLAGS, *flags)
    data = element.folder("data")
    dataset(users=40, events=12).save(data)
    (data / "sources.json").write_text("{}")
    if adopted:
        Head(HeadShape("bi-encoder", "mean")).save(data / "checkpoint")
    run_stages(element, "finetune", "blend", "distil", "onnx", "quantise", "verify", "final")
    return element


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A head that was trained, behind BERT as it came."""
    return made(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def bundle(trained: StoppedJob) -> Path:
    """The bundle of that job; its answers are held against expected.json."""
    return package._write(trained, trained.settings.bundle, "key")


def record_of(element: Job) -> FinalRecord:
    return FinalRecord.model_validate_json((element.folder("final") / FINAL).read_text())


def cold_item(element: Job) -> int:
    """The item whose events the measured model never saw."""
    (cold,) = leave_one_out(Dataset.load(element.folder("data"))).cold.tolist()
    return int(cold)


def test_bundle_holds_the_model_trained_on_all_events(trained: StoppedJob, bundle: Path) -> None:
    final_folder, measured = trained.folder("final"), trained.folder("finetune") / "item_vectors.npy"
    graph = (final_folder / "ranker.onnx").read_bytes()
    assert (bundle / "ranker.onnx").read_bytes() == graph != (trained.folder("onnx") / "ranker.onnx").read_bytes()
    vectors = (final_folder / "vectors.npy").read_bytes()
    assert (bundle / "vectors.npy").read_bytes() == vectors != measured.read_bytes()
    for name in ("transitions-starts.npy", "neighbours-weights.npy"):
        assert (bundle / name).read_bytes() == (final_folder / name).read_bytes()
    assert (bundle / "transitions-starts.npy").read_bytes() != (
        trained.folder("blend") / "transitions-starts.npy"
    ).read_bytes()
    sentences = np.load(trained.folder("finetune") / "sentences.npy")[:24]
    assert np.array_equal(np.load(bundle / "sentences.npy"), sentences)


def test_popularity_of_the_bundle_is_that_of_the_served_model(trained: StoppedJob, bundle: Path) -> None:
    counts = interaction_counts(Dataset.load(trained.folder("data")).histories, 24).tolist()
    rows = map(json.loads, (bundle / "items.jsonl").read_text().splitlines())
    assert (
        [row["popularity"] for row in rows] == counts == json.loads((trained.folder("final") / POPULARITY).read_text())
    )


def test_item_held_out_as_cold_is_trained_in_the_served_model(trained: StoppedJob) -> None:
    cold = cold_item(trained)
    before, after = (Memory.load(trained.folder(stage), 24) for stage in ("blend", "final"))
    events = np.array([cold])
    assert not len(before.next_chances([events]).positions)
    assert len(after.next_chances([events]).positions)
    assert not len(before.near_weights([events]).positions)
    assert len(after.near_weights([events]).positions)
    files = ("finetune/item_vectors.npy", "final/vectors.npy")
    measured, served = (np.load(trained.root / file)[cold] for file in files)
    assert not np.allclose(measured, served)


def test_record_describes_the_training_of_the_served_model_and_its_similarity(trained: StoppedJob) -> None:
    result = record_of(trained)
    data = Dataset.load(trained.folder("data"))
    assert (result.events, result.measured_events) == (
        sum(map(len, data.histories)),
        sum(map(len, leave_one_out(data).train)),
    )
    assert result.epochs == best_epoch(trained.folder("finetune"))
    assert result.loss is not None
    assert result.loss > 0
    assert result.parity is not None
    assert result.parity.passed
    assert result.overlap is not None
    assert 0 < result.overlap <= 1
    assert f"have {10 * result.overlap:.1f} of the ten best items in common" in result.likeness
    assert result.held_out is not None
    assert result.held_out.cases == 40


def test_expected_results_are_those_of_the_served_model(trained: StoppedJob) -> None:
    expected = json.loads((trained.folder("final") / EXPECTED).read_text())
    assert len(expected) == 32
    titles = {item.title: item.id for item in Dataset.load(trained.folder("data")).items}
    for row in expected:
        assert len(row["top"]) == 10
        assert not {*row["top"]} & {titles[text] for text in row["texts"]}  # a title is its item


def test_examples_are_the_results_of_the_bundle_and_of_the_untrained_encoder(trained: StoppedJob, bundle: Path) -> None:
    examples = load_quality(bundle).examples
    assert [bool(example.history) for example in examples] == [True, True, False, False][: len(examples)]
    expected = json.loads((trained.folder("final") / EXPECTED).read_text())
    assert [example.history for example in examples[:2]] == [row["texts"][-5:] for row in expected[:2]]
    requests = [Request(history=tuple(map(TextEvent, example.history)), query=example.query) for example in examples]
    with Engine(load_bundle(bundle), EngineOptions()) as engine:
        responses = package.recommend(engine, requests)
    page = html.unescape((bundle / "report.html").read_text())
    for example, response in zip(examples, responses, strict=True):
        assert example.items == [item.title for item, _ in response.items]
        assert len(example.untrained) == 10
        assert not {*example.untrained} & {*example.history}
        assert all(f"<li>{title}</li>" in page for title in (*example.items, *example.untrained))
    assert any(example.items != example.untrained for example in examples)


def test_every_report_says_which_model_each_figure_is_of(
    trained: StoppedJob, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = record_of(trained)
    sentence = (
        "Figures were measured on a model trained without each user's last two events and the events of 1 of the 24 "
        "items; it is that of the epoch which validated best. The served ranker, item vectors and memory were then "
        "trained once more on all 480 events with the same settings and as many epochs "
        f"({result.epochs}), without validation; the served model's own quality cannot be measured on events that it "
        "has seen, and was not measured on others."
    )
    assert result.figures == sentence
    page = html.unescape((bundle / "report.html").read_text())
    for text in ((bundle / "MODEL_CARD.md").read_text(), page):
        assert result.figures in text
        assert result.likeness in text
    assert report(["--artifacts", str(trained.settings.artifacts), "--name", trained.settings.name]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert result.figures in printed
    assert as_json(load_quality(bundle))["final"] == result.model_dump()
    assert load_bundle(bundle).manifest.quality["final"]["epochs"] == result.epochs


@pytest.mark.parametrize(
    ("protocol", "order", "cold", "without"),
    [
        ("leave-one-out", "time", 0, "each user's last two events;"),
        ("leave-one-out", "time", 67, "each user's last two events and the events of 67 of the 1,682 items;"),
        ("leave-one-out", "none", 0, "two events of each user drawn at random;"),
        ("time", "time", 0, "the last fifth of the events;"),
    ],
)
def test_sentence_names_what_the_measured_model_was_trained_without(
    protocol: Protocol, order: Order, cold: int, without: str
) -> None:
    result = trained_again(protocol, order, cold, 1682, 100_000, 11)
    assert f"Figures were measured on a model trained without {without}" in result
    assert "on all 100,000 events with the same settings and as many epochs (11), without validation" in result


def test_adopted_recommender_is_served_as_it_was_measured(tmp_path: Path) -> None:
    element = made(tmp_path, adopted=True)
    result, final_folder = record_of(element), element.folder("final")
    assert (result.epochs, result.loss, result.held_out) == (0, None, None)
    assert (final_folder / "ranker.onnx").read_bytes() == (element.folder("onnx") / "ranker.onnx").read_bytes()
    assert (final_folder / "vectors.npy").read_bytes() == (element.folder("finetune") / "item_vectors.npy").read_bytes()
    assert (final_folder / "transitions-weights.npy").read_bytes() != (
        element.folder("blend") / "transitions-weights.npy"
    ).read_bytes()
    assert not (final_folder / "sentences.npy").exists()
    assert "the recommender as it was given, which is served unchanged" in result.figures
    assert "know all 480 events" in result.figures
    assert result.overlap is not None
    package._write(element, element.settings.bundle, "key")


def fixed(users: NDArray[np.float32]) -> Rank:
    """A ranker that gives the row of the last event, whatever came before."""
    return lambda rows: np.array([users[int(element.vectors[-1].argmax())] for element in rows])


def subject(right: float, users: int = 40) -> tuple[EvaluatedRecommender, Cases]:
    """A recommender that puts the item after the last event first for a share `right` of the users."""
    items = 24
    vectors = np.eye(items, dtype=np.float32)
    histories = [np.array([n % items]) for n in range(users)]
    target = np.array([(n + 1) % items for n in range(users)])
    answers = np.array([vectors[(n + 1) % items if n < right * items else n] for n in range(items)])

    def encode(texts: list[str]) -> NDArray[np.float32]:
        raise AssertionError(texts)

    return EvaluatedRecommender(encode, fixed(answers), vectors, 16), Cases(np.arange(users), histories, target)


def test_retrained_model_is_refused_only_when_its_results_differ_too_much() -> None:
    (good, cases), (bad, _) = subject(1.0), subject(0.2)
    known = np.ones(24, dtype=bool)
    result = final_comparison.require_learned(bad, good, cases, known, 7)
    assert result.difference.low > 0
    assert final_comparison.require_learned(good, good, cases, known, 7).difference.mean == 0
    with pytest.raises(GateError, match=r"trained again on all events finds the test's items worse .* --learning-rate"):
        final_comparison.require_learned(good, bad, cases, known, 7)


def test_failed_training_is_detected_when_the_served_model_has_more_items() -> None:
    """In the measured model ten raised items are above everything, so that alone it finds nothing else."""
    (good, cases), (bad, _) = subject(1.0), subject(0.2)
    raised = good.items.copy()
    raised[12:] = 9.0
    is_known = np.arange(24) < 12
    early = cases.take(np.flatnonzero((cases.targets > 0) & (cases.targets < 12)))
    measured = replace(good, items=raised)
    assert final_comparison.require_learned(measured, good, early, is_known, 7).measured.mean == 1
    with pytest.raises(GateError, match="trained again on all events"):
        final_comparison.require_learned(measured, bad, early, is_known, 7)


def test_similarity_is_1_when_models_give_equal_results() -> None:
    (good, cases), (bad, _) = subject(1.0), subject(0.0)
    assert final_comparison.likeness(good, good, cases) == 1
    assert final_comparison.likeness(good, bad, cases) < 1


def with_records(folder: Path, *flags: str) -> Job:
    """A job whose stages before `final` have records that name a key."""
    element = job(folder, *_FLAGS, *flags)
    for stage in STAGES:
        element.folder(stage.name).mkdir(parents=True, exist_ok=True)
        (element.folder(stage.name) / "stage.json").write_text(json.dumps({"key": stage.name}))
    return element


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", "8"),
        ("--repeats", "allow"),
        ("--protocol", "time"),
        ("--batch", "8"),
        ("--learning-rate", "0.0001"),
        ("--preset", "quick"),
    ],
)
def test_stage_final_is_stale_when_a_setting_that_it_reads_changes(tmp_path: Path, flags: tuple[str, ...]) -> None:
    stage = next(s for s in STAGES if s.name == "final")
    assert stage_key(with_records(tmp_path), stage) != stage_key(with_records(tmp_path, *flags), stage)
    assert stage_key(with_records(tmp_path), stage) == stage_key(with_records(tmp_path), stage)


@pytest.mark.parametrize("before", ["data", "finetune", "blend", "distil", "onnx", "quantise", "verify"])
def test_stage_final_and_bundle_are_stale_when_an_earlier_stage_has_run_again(tmp_path: Path, before: str) -> None:
    stages = {stage.name: stage for stage in STAGES}
    element = with_records(tmp_path)
    keys = stage_key(element, stages["final"]), stage_key(element, stages["package"])
    (element.folder(before) / "stage.json").write_text(json.dumps({"key": "another"}))
    assert stage_key(element, stages["final"]) != keys[0]
    (element.folder("final") / "stage.json").write_text(json.dumps({"key": "another"}))
    assert stage_key(element, stages["package"]) != keys[1]


def test_bundle_is_not_checked_against_results_of_the_measured_model(trained: StoppedJob) -> None:
    assert not (trained.folder("verify") / EXPECTED).exists()
    assert [stage.name for stage in STAGES][-3:] == ["verify", "final", "package"]
