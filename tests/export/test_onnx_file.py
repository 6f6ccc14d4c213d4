"""Files of graphs declare the operator sets that they use, in a format that older versions of ONNX Runtime read."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from swiftrec.export.compress.onnx_file import CONTRIB, IR_VERSION, save_graph, used_domains
from swiftrec.export.errors import ExportError

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


def written(made: ModelProto, folder: Path) -> ModelProto:
    save_graph(made, folder / "graph.onnx")
    return onnx.load(folder / "graph.onnx")


def declared(made: ModelProto | onnx.FunctionProto) -> dict[str, int]:
    return {one.domain: one.version for one in made.opset_import}


def test_unused_operator_sets_are_not_declared(tmp_path: Path) -> None:
    made = model(helper.make_node("Relu", ["x"], ["y"]))
    assert set(declared(made)) > used_domains(made)  # negative control
    saved = written(made, tmp_path)
    assert declared(saved) == {"": 17}
    assert saved.ir_version == IR_VERSION
    onnx.checker.check_model(saved)


def test_older_format_stays_as_it_is(tmp_path: Path) -> None:
    made = model(helper.make_node("Relu", ["x"], ["y"]))
    made.ir_version = 8
    assert written(made, tmp_path).ir_version == 8


def test_both_names_of_the_standard_operators_are_one(tmp_path: Path) -> None:
    made = model(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"), declared={"ai.onnx": 17})
    assert declared(written(made, tmp_path)) == {"": 17}


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
    made = model(helper.make_node("Smooth", ["x"], ["y"], domain="ours"), declared=_MANY | {"ours": 1})
    made.functions.append(function)
    saved = written(made, tmp_path)
    assert declared(saved) == {"ours": 1, CONTRIB: 1}
    assert declared(saved.functions[0]) == {CONTRIB: 1}


def test_operator_set_without_a_version_is_refused_by_name(tmp_path: Path) -> None:
    made = model(helper.make_node("Strange", ["x"], ["y"], domain="org.elsewhere"))
    with pytest.raises(ExportError, match=r"graph\.onnx: uses operators of org\.elsewhere without the version"):
        written(made, tmp_path)
    assert not (tmp_path / "graph.onnx").exists()
