"""The ranker as a graph: parity sees a wrong weight, and its size and speed are recorded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import load, numpy_helper, save
from torch import nn
from transformers import PretrainedConfig

from swiftrec.export import gates
from swiftrec.export.checkpoints.head import Head, HeadShape
from swiftrec.export.compress.equivalence import difference, mean_cosine
from swiftrec.export.compress.int8 import form_of
from swiftrec.export.compress.layernorm import vectorise_norms
from swiftrec.export.compress.measurement import MeasurementTexts
from swiftrec.export.compress.ranker_graphs import measure_ranker_parity, random_users, read_ranker, save_ranker
from swiftrec.export.compress.students import Student, read_students, save_students
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.errors import GateError
from swiftrec.export.evaluate.selection import defaults, judge
from swiftrec.export.gates import Gate, at_most
from swiftrec.export.models.rankers import make_ranker
from swiftrec.export.models.teacher import Teacher, save_teacher
from swiftrec.export.schema.models import RankerRecord
from swiftrec.export.schema.variant import Variant, load_variants
from swiftrec.export.stages import onnx, quantise
from swiftrec.export.stages.onnx import _ranker, trace_ranker
from swiftrec.export.train.pretrained import split_of
from swiftrec.server.models.tokenizer import Tokenizer
from tests.export.tiny import StoppedJob, dataset, job, run_stages

_WIDTH, _LONGEST = 16, 12


def ranker(kind: str = "transformer") -> nn.Module:
    torch.manual_seed(3)
    ranker_model = make_ranker(kind, _WIDTH, _LONGEST)
    with torch.no_grad():
        for parameter in ranker_model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return ranker_model.eval()


@pytest.mark.parametrize("kind", ["transformer", "gru", "mlp", "mean"])
def test_graph_of_every_ranker_equals_pytorch(tmp_path: Path, kind: str) -> None:
    parity = trace_ranker("ranker", ranker(kind), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    assert parity <= gates.GATES.max_ranker_parity


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_parity_detects_a_wrong_weight(tmp_path: Path, kind: str) -> None:
    """Negative control."""
    trace_ranker("ranker", ranker(kind), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)
    other = ranker(kind)
    with torch.no_grad():
        next(p for name, p in other.named_parameters() if name == "out.weight")[0, 0] += 0.01
    assert measure_ranker_parity(other, tmp_path / "ranker.onnx", _WIDTH, _LONGEST) > gates.GATES.max_ranker_parity


class Careless(nn.Module):
    """A ranker that reads the padding, as a graph might that lost its mask."""

    def forward(self, vectors: torch.Tensor, kinds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The mean over the row, padding and all."""
        return (vectors + 0 * (kinds + mask).unsqueeze(-1)).mean(1, keepdim=True).expand_as(vectors)


RANKER = RankerRecord(
    name="ranker",
    file="ranker.onnx",
    megabytes=1.2,
    parity=1e-6,
    ms_batch1=0.3,
    users_per_s_core=900.0,
    gates=(gates.ranker_parity(1e-6),),
)


def test_ranker_that_depends_on_its_batch_is_refused_with_value_and_threshold(tmp_path: Path) -> None:
    """Negative control: alone it is right."""
    with pytest.raises(GateError, match=r"ranker: parity with PyTorch 0\.\d+, at most 0\.0001"):
        trace_ranker("ranker", Careless(), tmp_path / "ranker.onnx", _WIDTH, _LONGEST)


def test_random_users_cover_every_length_and_kind_of_event() -> None:
    users = random_users(48, 4, _LONGEST)
    assert {len(user.kinds) for user in users} == set(range(1, _LONGEST + 1))
    assert {int(kind) for user in users for kind in user.kinds} == {0, 1, 2}


def test_record_of_the_ranker_is_read_as_it_was_written(tmp_path: Path) -> None:
    save_ranker(RANKER, tmp_path)
    assert read_ranker(tmp_path) == RANKER


def test_ranker_of_a_teacher_is_traced_and_timed(tmp_path: Path) -> None:
    tiny_job = job(tmp_path)
    tiny_job.folder("finetune").mkdir()
    save_teacher(Teacher(16, _WIDTH, 24, _LONGEST), tiny_job.folder("finetune"))
    graph = _ranker(tiny_job, tmp_path / "ranker.onnx")
    assert graph.file == "ranker.onnx"
    assert graph.parity <= gates.GATES.max_ranker_parity
    assert graph.ms_batch1 > 0 < graph.users_per_s_core


def test_record_of_an_older_export_with_a_second_ranker_is_read() -> None:
    row = RANKER.model_dump() | {"name": "ranker.small", "file": "ranker.small.onnx"}
    result = RankerRecord.model_validate(
        row | {"retained": {"ids": [0.99, 0.95, 1.03]}, "shipped": True, "why": "fast"}
    )
    assert result.file == "ranker.small.onnx"


def adopt_by(tiny_job: StoppedJob, ranker: str | None, histories: list[NDArray[np.int64]]) -> None:
    """Turn the job's checkpoint into a recommender that is adopted, with `ranker` or with the mean."""
    checkpoint = tiny_job.folder("data") / "checkpoint"
    Head(HeadShape("bi-encoder", "mean")).save(checkpoint)
    if ranker:
        save_teacher(Teacher(16, 16, 24, 17, ranker=ranker), checkpoint)
    replace(dataset(), histories=histories).save(tiny_job.folder("data"))


def test_adopted_recommender_has_no_held_out_items(tmp_path: Path) -> None:
    tiny_job = job(tmp_path)
    often = [np.arange(24, dtype=np.int64)] * 12  # every item is taken often enough to be kept from training
    assert len(split_of(tiny_job, replace(dataset(), histories=often)).cold) == 1
    adopt_by(tiny_job, "gru", often)
    assert not len(split_of(tiny_job, replace(dataset(), histories=often)).cold)


_FUSION = {"EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu or FastGelu"}


_BERT = {f"fusion: {name}, times" for name in _FUSION} | {"parity with PyTorch"}


_STATIC = {"fusion: table look-ups", "fusion: MatMul, times", "parity with PyTorch"}


_SMALLER = {"cosine to fp32", "size against fp32"}


def careless(traced: Path, config: PretrainedConfig, target: Path) -> None:
    """Fuse nothing, as an optimiser that does not know the pattern of the layers."""
    if traced != target:
        shutil.copyfile(traced, target)


def quantised(tiny_job: StoppedJob) -> dict[str, Variant]:
    """The variants of a job with students."""
    run_stages(tiny_job, "onnx", "quantise")
    return {variant.name: variant for variant in load_variants(tiny_job.folder("quantise"))}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny BERT student and a static one; no loss of quality is refused."""
    tiny_job = job(tmp_path_factory.mktemp("tiny"), "--students", "bert1,static", "--allow-lossy")
    run_stages(tiny_job, "finetune", "distil")
    return tiny_job


def test_unfused_student_is_refused_and_the_others_continue(
    students: StoppedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx, "fuse", careless)
    result = quantised(students)
    assert set(result) == {f"{s}-{p}" for s in ("bert1", "static") for p in ("fp32", "int8", "fp16")}
    for precision in ("fp32", "int8", "fp16"):
        wrong = result[f"bert1-{precision}"]
        assert wrong.refused.startswith("fusion: EmbedLayerNormalization, times 0, needs 1; ")
        assert not (students.folder("quantise") / wrong.file).exists()
        assert "REJECTED (fusion" in quantise.describe(wrong)
        assert not result[f"static-{precision}"].refused
        assert (students.folder("quantise") / result[f"static-{precision}"].file).exists()
    shares = {"text": 1.0, "query": 1.0, "noisy": 1.0, "overlap": 1.0}
    judged = [judge(element, {} if element.refused else shares, allow_lossy=True) for element in result.values()]
    assert {variant.student for variant in judged if variant.shipped} == {"static"}
    assert defaults(judged)["cpu"].name.startswith("static-")


def test_every_variant_records_every_gate_of_its_graph(students: StoppedJob) -> None:
    result = quantised(students)
    names = {name: {gate.gate for gate in variant.graph_gates} for name, variant in result.items()}
    bert, static = _BERT | {"parity with the fused graph", "batch invariance"}, _STATIC | {"batch invariance"}
    assert names == {
        "bert1-fp32": bert,
        "bert1-int8": bert | _SMALLER | {"speed against fp32"},
        "bert1-fp16": bert | _SMALLER,
        "static-fp32": static,
        "static-int8": static | _SMALLER | {"speed against fp32"},
        "static-fp16": static | _SMALLER,
    }
    for variant in result.values():
        failed = [str(gate) for gate in variant.graph_gates if not gate.passed]
        assert "; ".join(failed) == "; ".join(filter(None, (variant.refused, variant.exception)))


def test_student_is_refused_when_its_rewritten_graph_differs(
    students: StoppedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rewriting changes a weight."""

    def wrong(fused: Path, target: Path) -> None:
        vectorise_norms(fused, target)
        model = load(target)
        gamma = next(element for element in model.graph.initializer if element.name.startswith("gamma"))
        gamma.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(gamma) * np.float32(2), gamma.name))
        save(model, target)

    quantised(students)
    monkeypatch.setattr(quantise, "vectorise_norms", wrong)
    tokenizer = Tokenizer.load(students.folder("onnx") / "tokenizer.json", students.settings.plan.max_tokens)
    texts = MeasurementTexts.draw(Texts.load(students.folder("data")).all, tokenizer, seed=1)
    bert = next(student for student in read_students(students.folder("onnx")) if student.layers)
    variants = quantise.make_variants(students, bert, texts, form_of("vnni"), tmp_path)
    assert [(tmp_path / variant.file).exists() for variant in variants] == [True, False, False]
    (refused,) = {quantise.judge(variant, allow_lossy=True).refused for variant in variants}
    assert refused.startswith("parity with the fused graph ")
    assert refused.endswith(", at most 0.0001")


def test_vectors_that_are_not_finite_fail_their_gates() -> None:
    good, bad = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    bad[1, 2] = np.nan
    assert difference(good, good) == 0
    assert mean_cosine(good, good, 3) == 3
    assert not at_most("parity", max([difference(good, good), difference(good, bad)]), 1e-4).passed
    assert mean_cosine(good, bad, 2) == mean_cosine(good, bad, 3) == -1


def test_student_records_round_trip(tmp_path: Path) -> None:
    refused = at_most("parity with PyTorch", 1e-3, 1e-4)
    result = [Student("bert3", 3, 384, 128, (refused,)), Student("static", 0, 256, 128)]
    save_students(result, tmp_path)
    assert read_students(tmp_path) == result
    assert read_students(tmp_path)[0].gates == (
        Gate("parity with PyTorch", 1e-3, 1e-4, passed=False, comparison="at most", is_loss=False),
    )
