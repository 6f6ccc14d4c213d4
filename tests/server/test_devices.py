"""The table of devices: a device added to it works wherever sessions, variants and settings are chosen."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, save

from swiftrec.export.evaluate.selection import defaults
from swiftrec.export.schema.variant import Variant
from swiftrec.server.config import ServerSettings
from swiftrec.server.errors import ProviderError
from swiftrec.server.models.bundle import FORMAT, Bundle, Manifest
from swiftrec.server.models.device import DEVICES, Device, DeviceName, device_of_graph, devices_with_default
from swiftrec.server.models.session import IoBindingSession, OnnxSession, open_session
from swiftrec.server.pipeline.engine import EngineOptions
from swiftrec.server.tuning.tuned import engine_options
from tests.conftest import ROOT

_DEVICE_NAMES = {"cuda", "tensorrt"}
_DEVICE_TABLE = "server/models/device.py"


@pytest.fixture
def npu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A made-up device, whose provider and memory are the CPU's so that a session opens here."""
    device = Device(
        ("CPUExecutionProvider",), "onnxruntime-npu", "npu", memory="cpu", graphs=("int4",), batch_tokens=77
    )
    monkeypatch.setitem(DEVICES, "npu", device)
    return "npu"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Doubles `x`."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    path = tmp_path / "1" / "double.onnx"
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def bundle_with_defaults(default: dict[str, str]) -> Bundle:
    """A bundle in memory with the variants bert3-int8, bert3-fp32 and bert3-int4."""
    names = ("bert3-int8", "bert3-fp32", "bert3-int4")
    manifest = Manifest(
        format=FORMAT,
        name="tiny",
        version=1,
        created="",
        export_key="",
        dimensions=8,
        max_tokens=8,
        max_history=8,
        variants={name: f"encoder.{name}.onnx" for name in names},
        default=default,
        quality={},
        sources={},
        tools={},
        machine="",
        files={},
    )
    return Bundle(Path("bundle"), manifest)


def test_table_has_an_entry_for_each_value_of_the_flag() -> None:
    assert [*DEVICES] == [*get_args(DeviceName)]


def test_each_kind_of_graph_is_made_for_one_device() -> None:
    graphs = [graph for device in DEVICES.values() for graph in device.graphs]
    assert len(graphs) == len(set(graphs))
    assert {graph: device_of_graph(graph) for graph in graphs} == {
        "fp32": "cpu",
        "int8": "cpu",
        "fp16": "cuda",
        "trt": "tensorrt",
    }


def test_session_on_an_added_device_binds_its_memory(npu: str, model: Path) -> None:
    session = open_session(model, npu)
    assert isinstance(session, IoBindingSession)
    assert session.run({"x": np.array([1.5], np.float32)}).tolist() == [3.0]
    assert type(open_session(model, "cpu")) is OnnxSession


def test_missing_provider_of_an_added_device_names_its_package(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "npu", Device(("NpuExecutionProvider",), "onnxruntime-npu", "npu", memory="npu"))
    sentence = (
        "device npu needs NpuExecutionProvider, which this onnxruntime does not have: "
        r"pip uninstall onnxruntime onnxruntime-gpu, then pip install 'swiftrec\[npu\]'"
    )
    with pytest.raises(ProviderError, match=sentence):
        open_session(model, "npu")


def test_session_that_ignores_the_provider_of_an_added_device_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEVICES, "npu", Device(("NpuExecutionProvider",), "onnxruntime-npu", "npu", memory="npu"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["NpuExecutionProvider"])
    error = pytest.raises(ProviderError, match="asked for NpuExecutionProvider, ONNX Runtime chose CPU")
    with pytest.warns(UserWarning, match="not in available provider"), error:
        open_session(model, "npu")


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        ({"cpu": "bert3-int8", "cuda": "bert3-fp32", "npu": "bert3-int4"}, "bert3-int4"),
        ({"cpu": "bert3-int8", "cuda": "bert3-fp32"}, "bert3-int8"),
    ],
)
def test_bundle_has_a_variant_for_an_added_device(npu: str, default: dict[str, str], expected: str) -> None:
    assert bundle_with_defaults(default).variant(npu, None) == expected


def test_device_without_a_default_takes_that_of_the_device_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "npu", Device(("NpuExecutionProvider",), "onnxruntime-npu", "npu", default_of="cuda"))
    bundle = bundle_with_defaults({"cpu": "bert3-int8", "cuda": "bert3-fp32"})
    assert bundle.variant("npu", None) == bundle.variant("tensorrt", None) == "bert3-fp32"
    assert devices_with_default() == ["cpu", "cuda"]


def test_settings_of_an_added_device_come_from_the_table(npu: str) -> None:
    settings = ServerSettings(bundle=[Path("bundle")], _cli_parse_args=[]).model_copy(update={"device": npu})
    assert engine_options(settings).limits.tokens == 77
    assert EngineOptions(device=npu).session_count() == 1


def test_export_makes_graphs_and_a_default_for_an_added_device(npu: str) -> None:
    shape = {"student": "bert3", "layers": 3, "hidden": 8, "shipped": True, "texts_per_s_core": 1.0}
    graphs = {"cpu": "fp32", npu: "int4"}
    variants = [
        Variant(name=f"bert3-{graph}", precision=graph, device=device, file=f"{graph}.onnx", **shape)
        for device, graph in graphs.items()
    ]
    assert device_of_graph("int4") == npu
    assert defaults(variants)[npu].name == "bert3-int4"


def device_names_in(source: str) -> set[str]:
    """Names of devices other than the CPU that are written in a source file's code."""
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return _DEVICE_NAMES & {text for text in strings if isinstance(text, str)}


def test_the_table_alone_names_the_devices_of_the_server() -> None:
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "server").rglob("*.py")]
    assert {file for file in files if device_names_in((ROOT / file).read_text())} == {_DEVICE_TABLE}
    assert device_names_in('DEFAULTS = {"cuda": 1}') == {"cuda"}


def test_makefile_installs_the_extra_of_each_device() -> None:
    makefile = (ROOT / "Makefile").read_text()
    choice = re.search(r"RUNTIME := \$\(if \$\(filter ([\w ]+),\$\(value DEVICE\)\),gpu,cpu\)", makefile)
    assert choice
    assert {name: "gpu" if name in choice[1].split() else "cpu" for name in DEVICES} == {
        name: device.extra for name, device in DEVICES.items()
    }
