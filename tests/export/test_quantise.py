"""int8 and fp16 graphs of a small random BERT: true to fp32, the same in any batch; what breaks either is seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from swiftrec.export import gates
from swiftrec.export.compress.calibration import Range
from swiftrec.export.compress.equivalence import Vectors, alone, invariance, mean_cosine
from swiftrec.export.compress.fp16 import check_half, to_half
from swiftrec.export.compress.graph_rewriter import Graph, count_operators
from swiftrec.export.compress.int8 import FORMS, Form, form_of, observe, quantise_bert, quantise_static
from swiftrec.export.compress.layernorm import vectorise_norms
from swiftrec.export.compress.onnx_file import IR_VERSION, used_domains
from swiftrec.export.errors import ExportError
from swiftrec.export.models.encoder import TextEncoder
from swiftrec.export.models.static import StaticEncoder
from swiftrec.export.stages.onnx import fuse, measure_parity, trace
from swiftrec.server.models.networks import EncoderModel, ranker_half, sentence_half
from swiftrec.server.models.session import open_session
from tests.export.checkpoints import bert

_LAYERS, _WORDS, _OUTLIER = 2, 300, 20.0
_RANKER, _SENTENCE = 16, 12  # lengths of the two halves


def rows() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, _WORDS, size=length).tolist() for length in rng.integers(2, 60, size=48)]


def module() -> TextEncoder:
    """A random BERT with what real ones have: one neuron and one channel far beyond the others."""
    trunk = bert(_WORDS, width=64, layers=_LAYERS, intermediate_size=256)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.mul_(3)
        weights = trunk.state_dict()
        weights["encoder.layer.0.intermediate.dense.bias"][7] = _OUTLIER
        weights["encoder.layer.0.output.LayerNorm.weight"][3] = 10
    return TextEncoder(trunk, _RANKER, _SENTENCE).eval()


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fused fp32 graph."""
    path = tmp_path_factory.mktemp("graphs") / "fused.onnx"
    ids, encoder = torch.ones(2, 3, dtype=torch.int64), module()
    trace(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", path)
    fuse(path, encoder.trunk.config, path)
    return path


@pytest.fixture(scope="module")
def exact(fused: Path) -> Vectors:
    """Its vectors of `rows`."""
    return alone(encoder(fused), rows())


def encoder(path: Path) -> EncoderModel:
    return EncoderModel(open_session(path))


def int8(fused: Path, target: Path, form: Form = FORMS[0]) -> EncoderModel:
    quantise_bert(fused, target, observe(fused, rows()), form)
    return encoder(target)


def test_fused_graph_does_what_pytorch_does(fused: Path) -> None:
    assert not gates.failures(gates.fusion(count_operators(fused), _LAYERS))
    assert measure_parity(module(), fused, rows()) <= gates.GATES.max_parity


def test_every_graph_declares_the_operator_sets_that_it_uses(fused: Path, tmp_path: Path) -> None:
    """ONNX Runtime 1.16 refuses a graph that declares a newer operator set than its own, used or not."""
    paths = {name: tmp_path / f"{name}.onnx" for name in ("traced", "fp32", "int8", "fp16")}
    ids, encoder = torch.ones(2, 3, dtype=torch.int64), module()
    trace(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", paths["traced"])
    vectorise_norms(fused, paths["fp32"])
    int8(fused, paths["int8"])
    to_half(fused, paths["fp16"])
    for path in (fused, *paths.values()):
        graph = onnx.load(path)
        assert {one.domain for one in graph.opset_import} == used_domains(graph), path.name
        assert graph.ir_version <= IR_VERSION


def test_both_halves_are_unit_vectors_in_every_graph(fused: Path, tmp_path: Path) -> None:
    vectorise_norms(fused, tmp_path / "fp32.onnx")
    to_half(fused, tmp_path / "fp16.onnx")
    int8(fused, tmp_path / "int8.onnx")
    for path in (fused, *tmp_path.glob("*.onnx")):
        vectors = alone(encoder(path), rows())
        assert vectors.shape == (len(rows()), _RANKER + _SENTENCE)
        for half in (ranker_half(vectors, _RANKER), sentence_half(vectors, _RANKER)):
            np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=2e-3, err_msg=path.name)


@pytest.mark.parametrize("half", [slice(_RANKER), slice(_RANKER, None)])
def test_cosine_is_that_of_the_worse_half(exact: Vectors, half: slice) -> None:
    worse = exact.copy()
    worse[:, half] *= 0.5
    assert mean_cosine(worse, exact, _RANKER) == pytest.approx(0.5)
    assert mean_cosine(exact, exact, _RANKER) == pytest.approx(1)


def test_parity_sees_a_wrong_weight(fused: Path) -> None:
    """Negative control."""
    other = module()
    with torch.no_grad():
        other.projection.weight[0, 0] += 0.5
    assert measure_parity(other, fused, rows()) > gates.GATES.max_parity


def test_vectorised_norms_change_nothing(fused: Path, exact: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "fp32.onnx"
    vectorise_norms(fused, path)
    assert np.abs(alone(encoder(path), rows()) - exact).max() < 1e-5
    assert "SkipLayerNormalization" not in count_operators(path)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_int8_keeps_the_vectors_and_is_the_same_in_any_batch(
    fused: Path, exact: Vectors, tmp_path: Path, form: Form
) -> None:
    model = int8(fused, tmp_path / "int8.onnx", form)
    vectors = alone(model, rows())
    assert mean_cosine(vectors, exact, _RANKER) >= 0.998
    assert invariance(model, rows(), vectors) <= gates.GATES.max_invariance


def test_int8_multiplies_every_layer_in_integers(fused: Path, tmp_path: Path) -> None:
    int8(fused, tmp_path / "int8.onnx")
    counts = count_operators(tmp_path / "int8.onnx")
    assert counts["MatMulIntegerToFloat"] == 6 * _LAYERS
    assert counts["MatMul"] == 1  # the projection, behind the pooling
    assert (tmp_path / "int8.onnx").stat().st_size < gates.GATES.max_size * fused.stat().st_size


def test_dynamic_int8_is_seen_to_depend_on_the_batch(fused: Path, tmp_path: Path) -> None:
    """Negative control."""
    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(fused, path, extra_options={"DefaultTensorType": TensorProto.FLOAT})
    model = encoder(path)
    assert invariance(model, rows(), alone(model, rows())) > gates.GATES.max_invariance


def test_ranges_of_other_texts_are_seen_in_the_cosine(fused: Path, exact: Vectors, tmp_path: Path) -> None:
    """Negative control: scales that do not fit the texts must show."""
    narrow = {
        name: Range(r.low * np.float32(0.05), r.high * np.float32(0.05)) for name, r in observe(fused, rows()).items()
    }
    quantise_bert(fused, tmp_path / "int8.onnx", narrow, FORMS[0])
    cosine = mean_cosine(alone(encoder(tmp_path / "int8.onnx"), rows()), exact, _RANKER)
    assert gates.failures(gates.smaller_precision(cosine, 0.3, 2.0))


def test_static_student_keeps_its_vectors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = StaticEncoder(_WORDS, 64, _RANKER, _SENTENCE)
    torch.nn.init.normal_(student.table.weight)
    ids = torch.ones(2, 3, dtype=torch.int64)
    paths = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    trace(student, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", paths[0])
    assert not gates.failures(gates.static_fusion(count_operators(paths[0])))
    quantise_static(*paths)
    vectors = [alone(encoder(path), rows()) for path in paths]
    assert mean_cosine(vectors[0], vectors[1], _RANKER) > 0.999
    assert invariance(encoder(paths[1]), rows(), vectors[1]) <= gates.GATES.max_invariance
    assert paths[1].stat().st_size < 0.4 * paths[0].stat().st_size


def test_half_has_matrices_in_fp16_and_keeps_the_interface(fused: Path, exact: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "fp16.onnx"
    to_half(fused, path)
    assert mean_cosine(alone(encoder(path), rows()), exact, _RANKER) > 0.999
    assert path.stat().st_size < gates.GATES.max_size * fused.stat().st_size


def test_half_with_a_matrix_left_in_fp32_is_refused(fused: Path, tmp_path: Path) -> None:
    """Negative control."""
    path = tmp_path / "fp16.onnx"
    to_half(fused, path)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 2), np.float32), "left"))
    onnx.save(model, path)
    with pytest.raises(ExportError, match="left"):
        check_half(path)


@pytest.mark.parametrize(
    ("target", "form"), [("avx2", "u8u8"), ("avx512", "u8s7"), ("vnni", "u8s8"), ("arm64", "u8s8")]
)
def test_form_of_an_instruction_set_does_not_overflow_there(target: str, form: str) -> None:
    assert form_of(target) == Form(form)


def test_weight_that_is_computed_is_named(fused: Path) -> None:
    with pytest.raises(ExportError, match="computes 'vectors'"):
        Graph(fused).constant("vectors")
