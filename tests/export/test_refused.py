"""A student whose graph is wrong is refused by name, and the others go on; every variant records its gates."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import load, numpy_helper, save
from transformers import PretrainedConfig

from swiftrec.export.compress.equivalence import difference, mean_cosine
from swiftrec.export.compress.int8 import form_of
from swiftrec.export.compress.layernorm import vectorise_norms
from swiftrec.export.compress.measurement import MeasurementTexts
from swiftrec.export.compress.students import Student, read_students, save_students
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.evaluate.selection import defaults, judge
from swiftrec.export.gates import Gate, at_most
from swiftrec.export.schema.variant import Variant, load_variants
from swiftrec.export.stages import onnx, quantise
from swiftrec.server.models.tokenizer import Tokenizer
from tests.export.tiny import StoppedJob, job, run_stages

_FUSION = {"EmbedLayerNormalization", "Attention", "SkipLayerNormalization", "BiasGelu or FastGelu"}
_BERT = {f"fusion: {name}, times" for name in _FUSION} | {"parity with PyTorch"}
_STATIC = {"fusion: table look-ups", "fusion: MatMul, times", "parity with PyTorch"}
_SMALLER = {"cosine to fp32", "size against fp32"}


def careless(traced: Path, config: PretrainedConfig, target: Path) -> None:
    """Fuses nothing, as an optimiser does that does not know the layers' pattern."""
    if traced != target:
        shutil.copyfile(traced, target)


def quantised(made: StoppedJob) -> dict[str, Variant]:
    """The variants of a job whose students are there."""
    run_stages(made, "onnx", "quantise")
    return {variant.name: variant for variant in load_variants(made.folder("quantise"))}


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> StoppedJob:
    """A tiny BERT student and a static one; whatever is lost by the way may be shipped."""
    made = job(tmp_path_factory.mktemp("tiny"), "--students", "bert1,static", "--allow-lossy")
    run_stages(made, "finetune", "distil")
    return made


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
    kept = {"text": 1.0, "query": 1.0, "noisy": 1.0, "overlap": 1.0}
    judged = [judge(element, {} if element.refused else kept, allow_lossy=True) for element in result.values()]
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
    made = quantise.make_variants(students, bert, texts, form_of("vnni"), tmp_path)
    assert [(tmp_path / variant.file).exists() for variant in made] == [True, False, False]
    (refused,) = {quantise.judge(variant, allow_lossy=True).refused for variant in made}
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
