"""Stage `verify` without a GPU: what is made for one is evaluated on the CPU, and shipped as that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swiftrec.export.data.dataset import Dataset
from swiftrec.export.data.split import split
from swiftrec.export.evaluate import backends
from swiftrec.export.evaluate.ranks import RecordedRanks
from swiftrec.export.evaluate.record import RECORD, Quality
from swiftrec.export.stages import blend as blend
from swiftrec.export.stages import distil, finetune, onnx, quantise, verify
from swiftrec.export.variants import load_variants
from swiftrec.server.errors import BundleError, ProviderError
from swiftrec.server.models.session import OnnxSession, open_session
from tests.export.tiny import StoppedJob, job

_FOR_GPU = {"static-fp16": "cuda", "bert1-fp16": "cuda", "bert1-trt": "tensorrt"}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny BERT student and a static one in every precision; whatever is lost by the way may be shipped."""
    made = job(tmp_path_factory.mktemp("tiny"), "--ladder", "bert1,static", "--allow-lossy", "--tensorrt")
    for stage, name in (
        (finetune, "finetune"),
        (distil, "distil"),
        (onnx, "onnx"),
        (blend, "blend"),
        (quantise, "quantise"),
    ):
        made.folder(name).mkdir()
        stage.run(made, made.folder(name))
    return made


def verified(made: StoppedJob, out: Path) -> Quality:
    verify.run(made, out)
    return Quality.model_validate_json((out / RECORD).read_text())


def no_gpu(path: Path, device: str = "cpu") -> OnnxSession:
    """A machine without one, whatever this one has."""
    if device != "cpu":
        raise ProviderError(f"device {device} is not here")
    return open_session(path)


def test_variant_for_a_gpu_is_evaluated_on_the_cpu_and_shipped(
    graphs: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "open_session", no_gpu)
    quality = verified(graphs, tmp_path)
    found = {record.variant.name: record for record in quality.variants}
    assert {name: one.variant.device for name, one in found.items() if one.variant.device != "cpu"} == _FOR_GPU
    for name, device in _FOR_GPU.items():
        one, plain = found[name], found[f"{name.partition('-')[0]}-fp32"]
        assert (one.shipped, one.measured_on, one.on_front) == (True, "cpu", False)
        assert one.gates
        assert quality.tasks[name]["text"].mean == pytest.approx(
            quality.tasks[plain.variant.name]["text"].mean, abs=0.1
        )
        assert one.remark.endswith(f"quality measured on cpu; speed on {device} not measured")
        assert "measured on" not in plain.remark


def test_ranks_of_every_recommender_give_its_figures_again(graphs: StoppedJob, tmp_path: Path) -> None:
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


def test_speeds_are_kept_with_the_rounds_that_they_are_medians_of(graphs: StoppedJob) -> None:
    for variant in load_variants(graphs.folder("quantise")):
        ranges = (variant.texts_per_s_range, variant.speedup_range)
        if variant.device != "cpu":
            assert ranges == (None, None)
            continue
        medians = (variant.texts_per_s_core, variant.speedup_vs_teacher_pytorch)
        for median, found in zip(medians, ranges, strict=True):
            assert found is not None
            assert found[0] <= median <= found[1]
            assert found[0] < found[1]


def test_graph_that_the_cpu_cannot_run_stays_unmeasured_with_the_reason(
    graphs: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(path: Path, device: str = "cpu") -> OnnxSession:
        if "-trt" in path.name and device == "cpu":
            raise BundleError(f"{path}: ONNX Runtime cannot load it")
        return no_gpu(path, device)

    monkeypatch.setattr(backends, "open_session", cannot)
    quality = verified(graphs, tmp_path)
    out = next(record for record in quality.variants if record.variant.name == "bert1-trt")
    assert (out.gates, out.retained, out.measured_on) == ([], {}, "")
    assert out.trouble.startswith("quality was not measured: this machine has no tensorrt, and its CPU cannot run the")
