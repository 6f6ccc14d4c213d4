"""Stage `verify` without a GPU, and without interactions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from swiftrec.export import gates
from swiftrec.export.checkpoints.checkpoint import locate, write_bert
from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import split
from swiftrec.export.data.text_variants import Texts, unseen
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate import backends
from swiftrec.export.evaluate.checkpoint_library import load_in_library
from swiftrec.export.evaluate.ranks import RecordedRanks
from swiftrec.export.evaluate.reference import Reference
from swiftrec.export.gates import GATES
from swiftrec.export.schema.final import EXPECTED, FINAL, FinalRecord
from swiftrec.export.schema.quality import QUALITY_FILE, Quality
from swiftrec.export.schema.variant import load_variants
from swiftrec.export.stages import package, verify
from swiftrec.server.errors import BundleError, ProviderError
from swiftrec.server.models.bundle import load_bundle
from swiftrec.server.models.session import OnnxSession, open_session
from tests.export.checkpoints import add_modules
from tests.export.tiny import StoppedJob, dataset, job, run_stages, write_checkpoint

_FOR_GPU = {"static-fp16": "cuda", "bert1-fp16": "cuda", "bert1-trt": "tensorrt"}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny BERT student and a static one in every precision; no loss of quality is refused."""
    tiny_job = job(tmp_path_factory.mktemp("tiny"), "--students", "bert1,static", "--allow-lossy", "--tensorrt")
    run_stages(tiny_job, "finetune", "distil", "onnx", "blend", "quantise")
    return tiny_job


def verified(tiny_job: StoppedJob, output: Path) -> Quality:
    verify.run(tiny_job, output)
    return Quality.model_validate_json((output / QUALITY_FILE).read_text())


def no_gpu(path: Path, device: str = "cpu") -> OnnxSession:
    """Open sessions as on a machine without a GPU."""
    if device != "cpu":
        raise ProviderError(f"device {device} is not here")
    return open_session(path)


def test_variant_for_a_gpu_is_evaluated_on_the_cpu_and_shipped(
    graphs: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "open_session", no_gpu)
    quality = verified(graphs, tmp_path)
    result = {record.name: record for record in quality.variants}
    assert {name: element.device for name, element in result.items() if element.device != "cpu"} == _FOR_GPU
    for name, device in _FOR_GPU.items():
        element, plain = result[name], result[f"{name.partition('-')[0]}-fp32"]
        assert (element.shipped, element.measured_on, element.on_front) == (True, "cpu", False)
        assert element.gates
        assert quality.tasks[name]["text"].mean == pytest.approx(quality.tasks[plain.name]["text"].mean, abs=0.1)
        assert element.remark.endswith(f"quality measured on cpu; speed on {device} not measured")
        assert "measured on" not in plain.remark


def test_recorded_ranks_reproduce_the_figures_of_every_recommender(graphs: StoppedJob, tmp_path: Path) -> None:
    quality, recorded = verified(graphs, tmp_path), RecordedRanks.load(tmp_path)
    assert {name: set(tasks) for name, tasks in recorded.ranks.items()} == {
        name: set(tasks) for name, tasks in quality.tasks.items()
    }
    for name, tasks in recorded.ranks.items():
        for task, ranks in tasks.items():
            ndcg = np.where(ranks < 10, 1 / np.log2(ranks + 2.0), 0).mean()
            assert ndcg == pytest.approx(quality.tasks[name][task].mean)
            assert ranks.dtype == np.int32
    parts = split(Dataset.load(graphs.folder("data")))
    assert recorded.users.tolist() == parts.warm.users.tolist()
    assert recorded.targets.tolist() == parts.warm.targets.tolist()
    assert recorded.seed == graphs.settings.seed


def test_speeds_are_medians_within_their_recorded_ranges(graphs: StoppedJob) -> None:
    for variant in load_variants(graphs.folder("quantise")):
        ranges = (variant.texts_per_s_range, variant.speedup_range)
        if variant.device != "cpu":
            assert ranges == (None, None)
            continue
        medians = (variant.texts_per_s_core, variant.speedup_vs_teacher_pytorch)
        for median, result in zip(medians, ranges, strict=True):
            assert result is not None
            assert result[0] <= median <= result[1]
            assert result[0] < result[1]


def test_graph_that_the_cpu_cannot_run_is_unmeasured_with_the_reason(
    graphs: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(path: Path, device: str = "cpu") -> OnnxSession:
        if "-trt" in path.name and device == "cpu":
            raise BundleError(f"{path}: ONNX Runtime cannot load it")
        return no_gpu(path, device)

    monkeypatch.setattr(backends, "open_session", cannot)
    quality = verified(graphs, tmp_path)
    output = next(record for record in quality.variants if record.name == "bert1-trt")
    assert (output.gates, output.retained, output.measured_on) == ((), {}, "")
    assert output.failed.startswith(
        "quality was not measured: this machine has no tensorrt, and its CPU cannot run the"
    )


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny adopted bi-encoder without interactions, and its static student."""
    tiny_job = job(tmp_path_factory.mktemp("tiny"), "--students", "static", "--allow-lossy")
    original, data = tmp_path_factory.mktemp("original"), tiny_job.folder("data")
    write_checkpoint(original)
    add_modules(original, hidden=16)
    shutil.rmtree(data / "checkpoint")
    write_bert(locate(str(original), original, original), data / "checkpoint", adopt=True, max_tokens=128)
    texts, bare = unseen(Texts.load(data), tiny_job.settings.seed), replace(dataset(), histories=[])
    bare.save(data)
    Reference.make(load_in_library(original, "bi-encoder", 128), texts, bare.items).save(data)
    (tiny_job.folder("data") / "sources.json").write_text("{}")
    run_stages(tiny_job, "finetune", "blend", "distil", "onnx", "quantise", "verify", "final")
    return tiny_job


def test_record_keeps_the_intervals_of_the_agreement(adopted: StoppedJob) -> None:
    quality = Quality.model_validate_json((adopted.folder("verify") / QUALITY_FILE).read_text())
    assert quality.protocol == "agreement"
    for record in quality.variants:
        assert {gate.gate: gate.value for gate in record.gates} == {
            gate: figure.mean for gate, figure in record.agreement.items()
        }
        assert record.agreement.keys() == {"cosine", "overlap"}
        for figure in record.agreement.values():
            assert figure.low <= figure.mean <= figure.high
            assert figure.low < figure.high


def test_variants_are_compared_with_the_library_of_the_checkpoint_and_not_with_the_teacher(
    adopted: StoppedJob, tmp_path: Path
) -> None:
    reference = Reference.load(adopted.folder("data"))
    quality = Quality.model_validate_json((adopted.folder("verify") / QUALITY_FILE).read_text())
    assert f"as {reference.library} runs it, on {len(reference.texts)} texts" in quality.other.remark
    assert "sentence-transformers" in reference.library
    another = replace(reference, vectors=-reference.vectors, library="another library")
    shutil.copytree(adopted.root, tmp_path / ".stages" / "tiny")
    copy = job(tmp_path, "--students", "static", "--allow-lossy")
    another.save(copy.folder("data"))
    (tmp_path / "verify").mkdir()
    verify.run(copy, tmp_path / "verify")
    result = Quality.model_validate_json((tmp_path / "verify" / QUALITY_FILE).read_text())
    pairs = [
        (element.agreement["cosine"].mean, two.agreement["cosine"].mean)
        for element, two in zip(quality.variants, result.variants, strict=True)
    ]
    assert all(element == pytest.approx(-two) for element, two in pairs)


def test_manifest_has_the_gates_of_the_bundle_and_of_its_ranker(adopted: StoppedJob, tmp_path: Path) -> None:
    folder = package._write(adopted, tmp_path, "key")
    manifest = load_bundle(folder).manifest
    assert {"MODEL_CARD.md", "report.html"} < manifest.files.keys()
    quality = Quality.model_validate(manifest.quality)
    assert quality.packaged is not None
    assert (quality.packaged.threshold, quality.packaged.passed) == (GATES.min_packaged, True)
    (ranker,) = quality.rankers
    assert [(gate.value, gate.threshold, gate.passed) for gate in ranker.gates] == [
        (ranker.parity, GATES.max_ranker_parity, True)
    ]
    assert "share of the evaluated top ten" in (folder / "MODEL_CARD.md").read_text()


def test_adopted_recommender_is_served_as_compared(adopted: StoppedJob) -> None:
    final_folder = adopted.folder("final")
    for name, source in (("ranker.onnx", "onnx/ranker.onnx"), ("vectors.npy", "finetune/item_vectors.npy")):
        assert (final_folder / name).read_bytes() == (adopted.root / source).read_bytes()
    assert FinalRecord.model_validate_json((final_folder / FINAL).read_text()) == FinalRecord(
        events=0, measured_events=0
    )
    texts = Reference.load(adopted.folder("data")).texts
    expected = json.loads((final_folder / EXPECTED).read_text())
    assert [row["texts"] for row in expected] == [[text] for text in texts[:32]]
    assert all(len(row["top"]) == 10 for row in expected)


def test_bundle_with_other_results_is_refused_with_value_and_threshold(
    adopted: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "GATES", replace(GATES, min_packaged=1.1))
    with pytest.raises(GateError, match=r"the packaged bundle: share of the evaluated top ten 1, at least 1\.1"):
        package._write(adopted, tmp_path, "key")
    assert not list(tmp_path.iterdir())
