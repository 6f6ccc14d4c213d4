"""int8 and fp16 graphs of a small random BERT against fp32; throughput; files that older ONNX Runtimes load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from swiftrec.export import gates
from swiftrec.export.compress.calibration import Range, split_neurons
from swiftrec.export.compress.calibration_texts import calibration_texts, joined_texts
from swiftrec.export.compress.equivalence import alone, invariance, mean_cosine
from swiftrec.export.compress.fp16 import check_half, to_half
from swiftrec.export.compress.graph_rewriter import Graph, count_operators
from swiftrec.export.compress.int8 import FORMS, Form, form_of, observe, quantise_bert, quantise_static
from swiftrec.export.compress.int8_form import choose_form
from swiftrec.export.compress.layernorm import vectorise_norms
from swiftrec.export.compress.onnx_file import CONTRIB, IR_VERSION, save_graph, used_domains
from swiftrec.export.compress.throughput import Encoder, Throughput, measure_throughput, rounds
from swiftrec.export.errors import ExportError
from swiftrec.export.models.encoder import TextEncoder
from swiftrec.export.models.static import StaticEncoder
from swiftrec.export.schema.variant import Variant
from swiftrec.export.stages.onnx import fuse, measure_parity, trace
from swiftrec.export.stages.quantise import describe
from swiftrec.server.arrays import Vectors
from swiftrec.server.models.networks import EncoderModel, ranker_half, sentence_half
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer
from tests.export.checkpoints import bert

_LAYERS, _WORDS, _OUTLIER = 2, 300, 20.0
_RANKER, _SENTENCE = 16, 12  # lengths of the two halves


def rows() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, _WORDS, size=length).tolist() for length in rng.integers(2, 60, size=48)]


def module() -> TextEncoder:
    """A random BERT with what real ones have: one neuron and one channel far beyond the others."""
    bert_model = bert(_WORDS, width=64, layers=_LAYERS, intermediate_size=256)
    with torch.no_grad():
        for parameter in bert_model.parameters():
            parameter.mul_(3)
        weights = bert_model.state_dict()
        weights["encoder.layer.0.intermediate.dense.bias"][7] = _OUTLIER
        weights["encoder.layer.0.output.LayerNorm.weight"][3] = 10
    return TextEncoder(bert_model, _RANKER, _SENTENCE).eval()


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its fused fp32 graph."""
    path = tmp_path_factory.mktemp("graphs") / "fused.onnx"
    ids, encoder = torch.ones(2, 3, dtype=torch.int64), module()
    trace(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "vectors", path)
    fuse(path, encoder.backbone.config, path)
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


def test_fused_graph_equals_pytorch(fused: Path) -> None:
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
        assert {element.domain for element in graph.opset_import} == used_domains(graph), path.name
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


def test_parity_detects_a_wrong_weight(fused: Path) -> None:
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


def test_dynamic_int8_is_found_to_depend_on_the_batch(fused: Path, tmp_path: Path) -> None:
    """Negative control."""
    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(fused, path, extra_options={"DefaultTensorType": TensorProto.FLOAT})
    model = encoder(path)
    assert invariance(model, rows(), alone(model, rows())) > gates.GATES.max_invariance


def test_cosine_drops_when_calibrated_on_other_texts(fused: Path, exact: Vectors, tmp_path: Path) -> None:
    """Negative control: scales that do not fit the texts must show."""
    ranges = {
        name: Range(r.low * np.float32(0.05), r.high * np.float32(0.05)) for name, r in observe(fused, rows()).items()
    }
    quantise_bert(fused, tmp_path / "int8.onnx", ranges, FORMS[0])
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


def test_fp16_graph_has_fp16_matrices_and_the_same_interface(fused: Path, exact: Vectors, tmp_path: Path) -> None:
    path = tmp_path / "fp16.onnx"
    to_half(fused, path)
    assert mean_cosine(alone(encoder(path), rows()), exact, _RANKER) > 0.999
    assert path.stat().st_size < gates.GATES.max_size * fused.stat().st_size


def test_fp16_graph_with_an_fp32_matrix_is_refused(fused: Path, tmp_path: Path) -> None:
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
def test_graph_form_is_the_one_that_does_not_overflow_on_the_instruction_set(target: str, form: str) -> None:
    assert form_of(target) == Form(form)


def test_weight_computed_by_a_node_is_named(fused: Path) -> None:
    with pytest.raises(ExportError, match="computes 'vectors'"):
        Graph(fused).constant("vectors")


_TEXTS = ["a b", "b", "c a b a", "d", "a c"]


class Busy:
    """Needs `work` seconds for each batch by its own clock, and remembers the batches."""

    def __init__(self, work: float) -> None:
        self._work, self.sizes = work, set[int]()
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def run(self, rows: Sequence[Sequence[int]], /) -> list[NDArray[np.float32]]:
        self.sizes.add(len(rows))
        self.now += self._work
        return [np.ones(4, np.float32) for _ in rows]


def tokenizer() -> Tokenizer:
    backend = Backend(WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="d"))
    backend.pre_tokenizer = Whitespace()
    return Tokenizer(backend, 128)


def test_smaller_encoder_is_faster() -> None:
    steps: list[int] = []
    slow, fast = Busy(3.0), Busy(1.0)
    clocks = {"slow": slow.clock, "fast": fast.clock}
    paces = measure_throughput({"slow": slow, "fast": fast}, tokenizer(), _TEXTS * 4, lambda: steps.append(1), clocks)
    assert len(steps) == rounds()
    assert paces["fast"].speedup(paces["slow"]) == 3.0
    assert paces["fast"].texts_per_s > paces["slow"].texts_per_s
    assert paces["fast"].ms_batch1 < paces["slow"].ms_batch1


def test_every_text_is_measured_alone_and_the_best_batch_is_used() -> None:
    encoder = Busy(1.0)  # a batch costs the same whatever its size
    paces = measure_throughput({"one": encoder}, tokenizer(), _TEXTS * 4, lambda: None, {"one": encoder.clock})
    assert len(paces["one"].alone_ms) == len(_TEXTS) * 4
    assert encoder.sizes >= {1, 4, 16}


def test_encoder_on_a_gpu_is_timed_by_wall_time() -> None:
    ticks = iter(range(100_000))
    encoders: dict[str, Encoder] = {"gpu": Busy(0.0), "cpu": Busy(0.0)}
    paces = measure_throughput(encoders, tokenizer(), _TEXTS * 4, lambda: None, {"gpu": lambda: float(next(ticks))})
    assert paces["gpu"].seconds == [1.0] * (rounds() - 1)
    assert max(paces["cpu"].seconds) < 1.0  # of CPU


def test_speedup_is_not_affected_by_one_slow_round() -> None:
    slow, fast = Throughput([2.0, 2.0, 9.0], 10, [1.0]), Throughput([1.0, 1.0, 1.0], 10, [1.0])
    assert fast.speedup(slow) == 2.0
    assert fast.texts_per_s == 10.0


def test_range_includes_the_slow_round() -> None:
    slow, fast = Throughput([2.0, 2.0, 9.0], 10, [1.0]), Throughput([1.0, 1.0, 1.25], 10, [1.0])
    assert fast.texts_per_s_range == (8.0, 10.0)
    assert fast.speedup_range(slow) == (2.0, 7.2)


def test_joined_texts_have_every_length_from_3_to_60_words() -> None:
    lengths = [len(text.split()) for text in joined_texts(_TEXTS, 58, np.random.default_rng(0))]
    assert sorted(lengths) == list(range(3, 61))


def test_calibration_has_short_texts_and_long_ones() -> None:
    texts = calibration_texts(_TEXTS, 10, np.random.default_rng(0))
    assert len(texts) == 10
    assert set(texts[-5:]) == set(_TEXTS)
    assert max(len(text.split()) for text in texts) == 60


def test_outlier_neuron_is_split() -> None:
    high = np.ones(200, np.float32)
    high[7] = 4.5
    split = split_neurons(high)
    assert split.top == pytest.approx(1.0)
    assert split.neurons.tolist().count(7) == 5
    assert split.shifts[split.neurons == 7].tolist() == pytest.approx([0, 1, 2, 3, 4])
    assert len(split.neurons) == 204


def test_split_neuron_adds_up_to_its_gelu() -> None:
    """Saturated copies against the neuron itself; the bound is what `split_neurons` says."""

    def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
        value: NDArray[np.float64] = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return value

    x = np.linspace(-5, 20, 400)
    split = split_neurons(np.array([5.0] * 199 + [20.0], np.float32))
    shifts = split.shifts[split.neurons == 199]
    total = sum(np.minimum(gelu(x - shift), split.top) for shift in shifts)
    assert np.abs(total - gelu(x)).max() < 0.18
    clipped = np.minimum(gelu(x), split.top)  # negative control: saturation without copies
    assert np.abs(clipped - gelu(x)).max() > 10


@pytest.mark.parametrize(
    ("refused", "exception", "words"),
    [("", "", "batch 1e-07"), ("size 0.7", "", "REJECTED (size 0.7)"), ("", "size 0.7", "exception (size 0.7)")],
)
def test_line_of_a_variant_ends_with_its_result(refused: str, exception: str, words: str) -> None:
    shape = {"student": "bert3", "precision": "int8", "device": "cpu", "file": "x.onnx", "layers": 3, "hidden": 384}
    speed = {"texts_per_s_core": 300.0, "ms_batch1": 3.0, "speedup_vs_teacher_pytorch": 6.0}
    variant = Variant(
        name="bert3-int8",
        megabytes=18.3,
        cosine=0.9995,
        batch_invariance=1e-7,
        refused=refused,
        exception=exception,
        **shape,
        **speed,
    )
    assert describe(variant).endswith(words)


@pytest.mark.parametrize(
    ("cosines", "speeds", "best"),
    [
        ({"u8s8": 0.9995, "u8u8": 0.9995, "u8s7": 0.9988}, {"u8s8": 295, "u8u8": 163, "u8s7": 300}, "u8s8"),
        ({"u8s8": 0.9500, "u8u8": 0.9995, "u8s7": 0.9988}, {"u8s8": 295, "u8u8": 163, "u8s7": 280}, "u8s7"),
        ({"u8s8": 0.9500, "u8u8": 0.9700, "u8s7": 0.9600}, {"u8s8": 200, "u8u8": 200, "u8s7": 200}, "u8u8"),
    ],
    ids=["fast and precise", "sums overflow", "none passes"],
)
def test_fastest_graph_is_chosen_among_those_that_keep_the_vectors(
    cosines: dict[str, float], speeds: dict[str, float], best: str
) -> None:
    assert choose_form(cosines, speeds) == best


_FLOAT = TensorProto.FLOAT
_MANY = {"": 17, "ai.onnx.ml": 5, "ai.onnx.preview.training": 1, "com.microsoft.nchwc": 1, "org.pytorch.aten": 1}


def value(name: str, kind: int = _FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [None] if kind == _FLOAT else [])


def model(*nodes: NodeProto, declared: dict[str, int] | None = None) -> ModelProto:
    """From x to y, with the operator sets that ONNX Runtime's optimiser declares."""
    graph = helper.make_graph(list(nodes), "graph", [value("x"), value("is_x", TensorProto.BOOL)], [value("y")])
    versions = _MANY if declared is None else declared
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=11)


def branch(node: NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "branch", [], [value("y")])


def written(graph: ModelProto, folder: Path) -> ModelProto:
    save_graph(graph, folder / "graph.onnx")
    return onnx.load(folder / "graph.onnx")


def declared(graph: ModelProto | onnx.FunctionProto) -> dict[str, int]:
    return {element.domain: element.version for element in graph.opset_import}


def test_unused_operator_sets_are_not_declared(tmp_path: Path) -> None:
    graph = model(helper.make_node("Relu", ["x"], ["y"]))
    assert set(declared(graph)) > used_domains(graph)  # negative control
    saved = written(graph, tmp_path)
    assert declared(saved) == {"": 17}
    assert saved.ir_version == IR_VERSION
    onnx.checker.check_model(saved)


def test_older_format_stays_as_it_is(tmp_path: Path) -> None:
    graph = model(helper.make_node("Relu", ["x"], ["y"]))
    graph.ir_version = 8
    assert written(graph, tmp_path).ir_version == 8


def test_both_names_of_the_standard_operator_set_count_as_one(tmp_path: Path) -> None:
    graph = model(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"), declared={"ai.onnx": 17})
    assert declared(written(graph, tmp_path)) == {"": 17}


@pytest.mark.parametrize("depth", [1, 3])
def test_operators_of_nested_graphs_count(tmp_path: Path, depth: int) -> None:
    inner = branch(helper.make_node("Gelu", ["x"], ["y"], domain=CONTRIB))
    for _ in range(depth):
        choice = helper.make_node("If", ["is_x"], ["y"], then_branch=inner, else_branch=inner)
        inner = branch(choice)
    assert declared(written(model(choice), tmp_path)) == {"": 17, CONTRIB: 1}


def test_operators_of_functions_count_in_the_function_and_in_the_model(tmp_path: Path) -> None:
    body = [helper.make_node("Gelu", ["a"], ["b"], domain=CONTRIB)]
    imports = [helper.make_opsetid(domain, version) for domain, version in _MANY.items()]
    function = helper.make_function("ours", "Smooth", ["a"], ["b"], body, imports)
    graph = model(helper.make_node("Smooth", ["x"], ["y"], domain="ours"), declared=_MANY | {"ours": 1})
    graph.functions.append(function)
    saved = written(graph, tmp_path)
    assert declared(saved) == {"ours": 1, CONTRIB: 1}
    assert declared(saved.functions[0]) == {CONTRIB: 1}


def test_operator_set_without_a_version_is_refused_by_name(tmp_path: Path) -> None:
    graph = model(helper.make_node("Strange", ["x"], ["y"], domain="org.elsewhere"))
    with pytest.raises(ExportError, match=r"graph\.onnx: uses operators of org\.elsewhere without the version"):
        written(graph, tmp_path)
    assert not (tmp_path / "graph.onnx").exists()
