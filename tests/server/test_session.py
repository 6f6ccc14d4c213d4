"""Denormal floats are zero while a model runs, in every thread that runs it, and nowhere else."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, save

from swiftrec.server.models.runtime import onnxruntime
from swiftrec.server.models.session import IS_SUPPORTED, FlushDenormals, open_session

pytestmark = pytest.mark.skipif(not IS_SUPPORTED, reason="denormals are flushed on Linux on x86-64 only")
_ROWS = 1 << 20  # enough for ONNX Runtime to share them among its threads


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The product of `x` and `x`."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "square", [x], [y])
    path = tmp_path / "1" / "square.onnx"
    path.parent.mkdir()
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def small() -> NDArray[np.float32]:
    """1e-40, computed here and now: zero where denormals are flushed."""
    return np.full(64, 1e-20, dtype=np.float32) ** 2


def feeds() -> dict[str, NDArray[np.generic]]:
    return {"x": np.full(_ROWS, 1e-20, dtype=np.float32)}


@pytest.mark.parametrize("threads", [1, 2])
def test_no_thread_of_a_session_produces_denormals(model: Path, threads: int) -> None:
    assert not open_session(model, "cpu", threads).run(feeds()).any()


def test_calling_thread_keeps_denormals_after_opening_and_running_a_model(model: Path) -> None:
    session = open_session(model)
    assert small().all()
    session.run(feeds())
    assert small().all()
    with pytest.raises(Exception, match="x"):
        session.run({})
    assert small().all()


def test_other_threads_keep_denormals_meanwhile() -> None:
    seen: list[bool] = []
    entered = threading.Event()

    def other() -> None:
        entered.wait()
        seen.append(bool(small().all()))

    thread = threading.Thread(target=other)
    thread.start()
    with FlushDenormals():
        assert not small().any()
        entered.set()
        thread.join()
    assert seen == [True]


def test_nested_flushing_ends_with_the_outermost() -> None:
    with FlushDenormals():
        with FlushDenormals():
            assert not small().any()
        assert not small().any()
    assert small().all()


def test_onnx_runtime_produces_denormals_without_flushing(model: Path) -> None:
    """What the others are compared with."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    plain = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    assert plain.run(None, feeds())[0].all()
